//! The command line: one file per subcommand. Flags, variables and keys of the file follow from the settings
//! in `config`. clap splits the words and writes the help; `config` checks the values, so that all mistakes
//! are reported together.

mod agent;
mod agent_port;
mod client;
mod cluster_secret;
mod exit;
mod find;
mod hosts;
mod log_lines;
mod members;
mod mirror;
mod output;
mod parent;
mod process;
mod server;
mod signals;
mod snapshot;
mod status;
mod up;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgMatches, Command};

pub use exit::{CliError, CommandError, Exit};

use crate::config::{self, Given, LOGGING, Layers, Logging, Problems, Setting};

/// Version, with the commit if the build names one in `PICCOLO_COMMIT`.
static VERSION: LazyLock<String> = LazyLock::new(|| match option_env!("PICCOLO_COMMIT") {
    Some(commit) => format!("{} ({commit})", env!("CARGO_PKG_VERSION")),
    None => env!("CARGO_PKG_VERSION").to_owned(),
});

const AFTER_HELP: &str = "\
Start three discovery servers on this host, and show their status:
  piccolo up
  piccolo status

Three hosts, one file on all of them, and the same command on each:
  piccolo cluster-secret create cluster-secret.pem
  piccolo server --data-dir /var/lib/piccolo --cluster a:7790,b:7790,c:7790 \\
      --cluster-secret cluster-secret.pem
On every node:
  piccolo agent --servers http://a:7789,http://b:7789,http://c:7789
  piccolo mirror install --certs-dir /etc/containerd/certs.d --registry docker.io

Each flag has a variable, PICCOLO_ and its name in capitals (--data-dir: PICCOLO_DATA_DIR), and a \
key in the TOML file of --config (data-dir = \"…\"). Flags win over variables, variables over the file.

Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 3 not found (find), 4 no server \
reachable, 5 this server was removed from its cluster (server), 6 its disk is full or broken (server).";

/// One subcommand: its name, arguments, help and function.
struct Subcommand {
    name: &'static str,
    about: &'static str,
    /// Examples, shown below the flags in the help.
    examples: &'static str,
    /// Settings of the subcommand, apart from [`LOGGING`], in groups with a heading in the help; an empty
    /// heading is clap's own.
    settings: &'static [(&'static str, &'static [Setting])],
    /// Positional arguments.
    words: &'static [Word],
    /// True if the subcommand reads the tables of registries from the file.
    registries: bool,
    run: fn(&Invocation) -> Result<Exit, CliError>,
}

/// One positional argument. Only the last one may be optional or repeated.
struct Word {
    name: &'static str,
    help: &'static str,
    required: bool,
    /// True if the argument may be given several times.
    repeated: bool,
}

impl Word {
    const fn required(name: &'static str, help: &'static str) -> Self {
        Self { name, help, required: true, repeated: false }
    }

    const fn optional(name: &'static str, help: &'static str) -> Self {
        Self { name, help, required: false, repeated: false }
    }

    const fn repeated(name: &'static str, help: &'static str) -> Self {
        Self { name, help, required: true, repeated: true }
    }
}

/// Subcommands below a common word, such as `piccolo members`.
struct Family {
    name: &'static str,
    about: &'static str,
    subcommands: &'static [&'static Subcommand],
}

const SUBCOMMANDS: &[&Subcommand] =
    &[&up::UP, &server::SERVER, &agent::AGENT, &status::STATUS, &find::FIND, &hosts::HOSTS];
const FAMILIES: &[Family] = &[
    Family {
        name: "mirror",
        about: "Make containerd ask the mirror first, undo that, or check whether it asks",
        subcommands: &[&mirror::INSTALL, &mirror::REMOVE, &mirror::CHECK],
    },
    Family {
        name: "members",
        about: "Show, add, replace and remove servers, move the leadership, end an upgrade",
        subcommands: &[
            &members::LIST,
            &members::ADD,
            &members::REPLACE,
            &members::REMOVE,
            &members::TRANSFER_LEADER,
            &members::ACTIVATE,
        ],
    },
    Family {
        name: "snapshot",
        about: "Save the servers' state to a file, verify the file, start a new cluster from it",
        subcommands: &[&snapshot::SAVE, &snapshot::VERIFY, &snapshot::RESTORE],
    },
    Family {
        name: "cluster-secret",
        about: "Make, show and rotate the file with the CA by which servers know each other",
        subcommands: &[
            &cluster_secret::CREATE,
            &cluster_secret::SHOW,
            &cluster_secret::ADD,
            &cluster_secret::RETIRE,
        ],
    },
];

/// One call of a subcommand, with what it was given.
struct Invocation {
    subcommand: &'static Subcommand,
    given: Given,
    words: Vec<String>,
}

impl Invocation {
    /// Reads the configuration with `build`, starts logging, and warns of `PICCOLO_` variables that no
    /// command knows.
    fn configure<T>(&self, build: impl FnOnce(&mut Layers) -> Option<T>) -> Result<(T, Logging), Problems> {
        let settings = [self.subcommand.settings(), LOGGING.to_vec()].concat();
        let mut layers = Layers::open(settings, &self.given, self.subcommand.registries);
        let logging = config::logging(&mut layers);
        let built = build(&mut layers);
        let (built, logging) = layers.finish(built.zip(logging))?;
        process::start_logging(&logging);
        let unknown = config::unknown_environment(&self.given.environment, &all_settings());
        if !unknown.is_empty() {
            tracing::warn!(variables = unknown.join(" "), "ignored variables that no command knows");
        }
        Ok((built, logging))
    }
}

/// Runs one command line to its end.
pub fn main(
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Exit {
    signals::hold();
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    // Comes first, so that the command tree, TLS and the configuration do not take memory in the supervisor.
    if let Some(program) = agent::supervisor_of(&arguments) {
        return agent::supervise(program).unwrap_or_else(|error| {
            output::complain_or_drop(&error);
            error.exit()
        });
    }
    // Fails only if a provider is installed already, which nothing does before main.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let matches = match command().try_get_matches_from(arguments) {
        Ok(matches) => matches,
        Err(error) => {
            // An error here means that the pipe is closed: nobody reads the message.
            let _ = error.print();
            return if error.exit_code() == 0 { Exit::Done } else { Exit::Usage };
        }
    };
    // A variable that is not UTF-8 cannot be one of Piccolo's.
    let environment = environment
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let invocation = invocation(&matches, environment);
    // The agent unblocks its signals itself, after its handlers are installed. No other command is started by
    // an exec.
    if invocation.subcommand.name != agent::AGENT.name {
        signals::release();
    }
    exit_of((invocation.subcommand.run)(&invocation))
}

/// Exit code of a command; prints its error.
fn exit_of(result: Result<Exit, CliError>) -> Exit {
    result.unwrap_or_else(|error| {
        output::complain(&error);
        error.exit()
    })
}

fn command() -> Command {
    let family = |family: &Family| {
        Command::new(family.name)
            .about(family.about)
            .subcommand_required(true)
            .arg_required_else_help(true)
            .subcommands(family.subcommands.iter().map(|subcommand| subcommand.command()))
    };
    Command::new("piccolo")
        .about("Nodes of a cluster pull container images from each other instead of from the registry.")
        .version(VERSION.as_str())
        .propagate_version(true)
        .subcommand_required(true)
        .arg_required_else_help(true)
        .max_term_width(100)
        .after_help(AFTER_HELP)
        .args(LOGGING.iter().map(|setting| argument(setting).global(true).help_heading("Everywhere")))
        .subcommands(SUBCOMMANDS.iter().map(|subcommand| subcommand.command()))
        .subcommands(FAMILIES.iter().map(family))
}

impl Subcommand {
    fn command(&self) -> Command {
        let mut command = Command::new(self.name).about(self.about).after_help(self.examples);
        for Word { name, help, required, repeated } in self.words {
            let action = if *repeated { ArgAction::Append } else { ArgAction::Set };
            command = command.arg(Arg::new(*name).required(*required).help(*help).action(action));
        }
        for (heading, settings) in self.settings {
            let heading = (!heading.is_empty()).then_some(*heading);
            command = command.args(settings.iter().map(|setting| argument(setting).help_heading(heading)));
        }
        command
    }

    fn settings(&self) -> Vec<Setting> {
        self.settings.iter().flat_map(|(_, settings)| settings.iter().copied()).collect()
    }
}

fn argument(setting: &Setting) -> Arg {
    let mut help = setting.help.to_owned();
    if let Some(default) = setting.fallback.text() {
        help.push_str(&format!(" [default: {default}]"));
    }
    if !setting.aliases.is_empty() {
        help.push_str(&format!(" [also: {}]", setting.aliases.join(", ")));
    }
    let argument = Arg::new(setting.flag).long(setting.flag).help(help).hide(setting.hidden);
    if setting.is_switch() {
        argument.action(ArgAction::SetTrue)
    } else {
        argument.value_name(setting.value_name).allow_negative_numbers(true).action(ArgAction::Set)
    }
}

fn invocation(matches: &ArgMatches, environment: BTreeMap<String, String>) -> Invocation {
    let (name, matches) = matches.subcommand().expect("clap requires a subcommand");
    let (subcommand, matches) = match FAMILIES.iter().find(|family| family.name == name) {
        Some(family) => {
            let (name, matches) = matches.subcommand().expect("clap requires a subcommand of a family");
            (named(family.subcommands, name), matches)
        }
        None => (named(SUBCOMMANDS, name), matches),
    };
    let settings = subcommand.settings();
    let flags = settings.iter().chain(LOGGING).filter_map(|setting| {
        let value = if setting.is_switch() {
            matches.get_flag(setting.flag).then(|| "true".to_owned())
        } else {
            matches.get_one::<String>(setting.flag).cloned()
        };
        Some((setting.flag, value?))
    });
    let given = Given { flags: flags.collect(), environment };
    let words = subcommand.words.iter().filter_map(|word| matches.get_many::<String>(word.name));
    let words = words.flatten().cloned();
    Invocation { subcommand, given, words: words.collect() }
}

fn named(subcommands: &[&'static Subcommand], name: &str) -> &'static Subcommand {
    subcommands.iter().find(|subcommand| subcommand.name == name).expect("clap knows the same subcommands")
}

fn all_subcommands() -> impl Iterator<Item = &'static Subcommand> {
    SUBCOMMANDS.iter().chain(FAMILIES.iter().flat_map(|family| family.subcommands)).copied()
}

fn all_settings() -> Vec<Setting> {
    all_subcommands().flat_map(|subcommand| subcommand.settings()).chain(LOGGING.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_flag_has_one_meaning_per_command() {
        for subcommand in all_subcommands() {
            let settings = subcommand.settings();
            let mut flags: Vec<&str> = settings.iter().chain(LOGGING).map(|setting| setting.flag).collect();
            flags.sort_unstable();
            let before = flags.len();
            flags.dedup();
            assert_eq!(flags.len(), before, "{}", subcommand.name);
        }
    }
}
