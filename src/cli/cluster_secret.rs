//! `piccolo cluster-secret`: makes, shows and rotates the file with the CA of a cluster. No server is asked,
//! and no key is printed.

use std::path::PathBuf;

use super::output::{Paint, print, table};
use super::{CliError, CommandError, Exit, Invocation, Subcommand, Word};
use crate::clock::SystemClock;
use crate::identity::credentials::unix_seconds;
use crate::identity::facts::date;
use crate::identity::{ClusterSecret, SecretError, file};

const FILE: &[Word] = &[Word::required("FILE", "The cluster secret")];

/// The subcommand `piccolo cluster-secret create`.
pub(super) const CREATE: Subcommand = Subcommand {
    name: "create",
    about: "Make a new cluster secret",
    examples: "\
Example, once for a cluster:
  piccolo cluster-secret create /etc/piccolo/cluster-secret.pem

The file has a key and a certificate, and is never replaced. Copy it to all servers of the cluster, readable \
by the user of the server only (mode 0600), and keep a copy where backups are kept: who has it can take part \
in the cluster.",
    settings: &[],
    words: FILE,
    registries: false,
    run: create,
};

/// The subcommand `piccolo cluster-secret show`.
pub(super) const SHOW: Subcommand = Subcommand {
    name: "show",
    about: "Show the CAs of a cluster secret: names, dates and fingerprints, no keys",
    examples: "\
Example:
  piccolo cluster-secret show /etc/piccolo/cluster-secret.pem",
    settings: &[],
    words: FILE,
    registries: false,
    run: show,
};

/// The subcommand `piccolo cluster-secret add`.
pub(super) const ADD: Subcommand = Subcommand {
    name: "add",
    about: "Begin a rotation: add a new CA to a cluster secret, which signs from now on",
    examples: "\
Example:
  piccolo cluster-secret add /etc/piccolo/cluster-secret.pem

The old CA stays trusted. Copy the file to the other servers and restart them one after the other, in any \
order; when all have it: piccolo cluster-secret retire.",
    settings: &[],
    words: FILE,
    registries: false,
    run: add,
};

/// The subcommand `piccolo cluster-secret retire`.
pub(super) const RETIRE: Subcommand = Subcommand {
    name: "retire",
    about: "End a rotation: remove the oldest CA from a cluster secret",
    examples: "\
Example:
  piccolo cluster-secret retire /etc/piccolo/cluster-secret.pem

Only when all servers run with the file that has the new CA, too. Then copy the file to the other servers and \
restart them one after the other. The last CA is not removed.",
    settings: &[],
    words: FILE,
    registries: false,
    run: retire,
};

impl From<SecretError> for CliError {
    fn from(error: SecretError) -> Self {
        CommandError::new(Exit::Failed, error).into()
    }
}

fn create(invocation: &Invocation) -> Result<Exit, CliError> {
    let (path, now) = begin(invocation)?;
    let secret = file::create(&path, now)?;
    done(&secret, &format!("made {}, which only its owner can read\n", path.display()))
}

fn show(invocation: &Invocation) -> Result<Exit, CliError> {
    let (path, _) = begin(invocation)?;
    done(&file::read(&path)?, "")
}

fn add(invocation: &Invocation) -> Result<Exit, CliError> {
    let (path, now) = begin(invocation)?;
    let secret = file::change(&path, |secret| secret.add(now))?;
    done(
        &secret,
        "added a CA. Copy the file to the other servers and restart them one after the other; when all have \
         it, retire the oldest CA\n",
    )
}

fn retire(invocation: &Invocation) -> Result<Exit, CliError> {
    let (path, _) = begin(invocation)?;
    let secret = file::change(&path, ClusterSecret::retire)?;
    done(
        &secret,
        "removed the oldest CA. Copy the file to the other servers and restart them one after the other\n",
    )
}

/// The file, and the time in seconds since 1970.
fn begin(invocation: &Invocation) -> Result<(PathBuf, i64), CliError> {
    invocation.configure(|_| Some(()))?;
    let path = invocation.words.first().map(PathBuf::from).expect("clap requires the file");
    Ok((path, unix_seconds(&SystemClock::shared())))
}

fn done(secret: &ClusterSecret, said: &str) -> Result<Exit, CliError> {
    print(&format!("{said}{}", rows(secret, Paint::stdout())))?;
    Ok(Exit::Done)
}

fn rows(secret: &ClusterSecret, paint: Paint) -> String {
    let newest = secret.authorities().len() - 1;
    let row = |(place, authority): (usize, &crate::identity::Authority)| {
        let facts = authority.facts();
        let role = if place == newest { "signs" } else { "trusted" };
        [facts.name.clone(), role.to_owned(), date(facts.from), date(facts.until), facts.fingerprint.clone()]
            .to_vec()
    };
    let rows: Vec<Vec<String>> = secret.authorities().iter().enumerate().map(row).collect();
    table(&["CA", "ROLE", "FROM", "UNTIL", "SHA-256"], &rows, paint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_is_the_one_that_signs() {
        let mut secret = ClusterSecret::generate(0);
        secret.add(86_400).unwrap();
        let shown = rows(&secret, Paint::plain());
        let lines: Vec<&str> = shown.lines().collect();
        let [old, new] = [0, 1].map(|at| secret.authorities()[at].facts());
        assert!(lines[1].starts_with(&old.name) && lines[1].contains("trusted"), "{shown}");
        assert!(lines[2].starts_with(&new.name) && lines[2].contains("signs"), "{shown}");
        assert!(lines[2].contains(&new.fingerprint) && lines[2].contains("1979-12-31 00:00 UTC"), "{shown}");
    }
}
