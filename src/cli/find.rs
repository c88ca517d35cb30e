//! `piccolo find`: who holds an image or a digest.

mod reference;

use piccolo_raft::command::GROUP_BYTES_MAX;

use super::client::{Asked, CLIENT, DEADLINE, print_json};
use super::output::{Paint, print};
use super::{CliError, Exit, Invocation, Subcommand, Word, process};
use crate::api::{FindQuery, FindResponse};
use crate::config::{Fallback, Layers, Setting, value};
use crate::limits::FINDKEY_COUNT_MAX;

/// The subcommand.
pub(super) const FIND: Subcommand = Subcommand {
    name: "find",
    about: "Show which nodes hold an image or a digest",
    examples: "\
Examples:
  piccolo find nginx                                    the tag docker.io/library/nginx:latest
  piccolo find ghcr.io/org/app:1.2
  piccolo find sha256:1f0c…                             a manifest or a layer
  piccolo find ghcr.io/org/app@sha256:1f0c…             the same

Exit code 3: nobody has it.",
    settings: &[("", CLIENT), ("", GROUP)],
    words: &[Word::required("REF", "An image, as docker and containerd write it, or a digest")],
    registries: false,
    run,
};

const GROUP: &[Setting] =
    &[Setting::new("group", "NAME", "Whose nodes").or(Fallback::Text("default")).alias(&["PI_GROUP"])];

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((asked, group), _) = invocation.configure(read)?;
    let word = invocation.words.first().cloned().unwrap_or_default();
    let key = reference::key(&word).ok_or(CliError::BadReference { reference: word })?;
    let client = asked.client()?;
    let query = FindQuery {
        key: key.clone(),
        group: group.clone(),
        count: Some(FINDKEY_COUNT_MAX as i64),
        ..FindQuery::default()
    };
    let found = process::block_on_this_thread(async { Ok(client.find(&query, DEADLINE).await?) })?;
    let exit = if found.is_some() { Exit::Done } else { Exit::NotFound };
    let answer = found.unwrap_or(FindResponse { key, group, holders: Vec::new(), total: 0 });
    if asked.json {
        print_json(&answer)?;
    } else {
        print(&text(&answer, Paint::stdout()))?;
    }
    Ok(exit)
}

fn read(layers: &mut Layers) -> Option<(Asked, String)> {
    let asked = Asked::read(layers);
    let group = layers.required("group", |text| value::name(text, GROUP_BYTES_MAX, false));
    Some((asked?, group?))
}

fn text(answer: &FindResponse, paint: Paint) -> String {
    let count = match answer.holders.len() {
        0 => paint.bad("nobody"),
        1 => paint.good("1 node"),
        FINDKEY_COUNT_MAX => paint.good(&format!("{FINDKEY_COUNT_MAX} nodes or more")),
        count => paint.good(&format!("{count} nodes")),
    };
    let mut text = format!("{} in group {}: {count}\n", answer.key, answer.group);
    for holder in &answer.holders {
        text.push_str(&format!("{holder}\n"));
    }
    text
}
