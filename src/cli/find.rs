//! `piccolo find`: shows which nodes hold an image or a digest.

mod claims;
mod reference;

use std::io::Write as _;

use piccolo_raft::model::GROUP_BYTES_MAX;

use super::client::{Asked, CLIENT, print_json};
use super::output::{Paint, print};
use super::{CliError, Exit, Invocation, Subcommand, Word, process};
use crate::api::{FindQuery, FindResponse};
use crate::config::{Fallback, Layers, Setting};
use crate::limits::{COMMAND_ANSWER_TIMEOUT, FINDKEY_COUNT_MAX};
use crate::value;
use claims::HolderClaim;

/// The subcommand `piccolo find`.
pub(super) const FIND: Subcommand = Subcommand {
    name: "find",
    about: "Show which nodes hold an image or a digest",
    examples: "\
Examples:
  piccolo find nginx                                    the tag docker.io/library/nginx:latest
  piccolo find ghcr.io/org/app:1.2
  piccolo find sha256:1f0c…                             a manifest or a layer
  piccolo find ghcr.io/org/app@sha256:1f0c…             the same

The holders of a tag are asked what it is there: where they differ, each is shown with its
digest and the time of its import, and which of them counts under tags = \"peers\".

Exit code 3: nobody has it, as far as the servers know.",
    settings: &[("", CLIENT), ("", GROUP)],
    words: &[Word::required("REF", "An image, as docker and containerd write it, or a digest")],
    registries: false,
    run,
};

const GROUP: &[Setting] =
    &[Setting::new("group", "NAME", "Group of the nodes").or(Fallback::Text("default")).alias(&["PI_GROUP"])];

/// Warning when nobody is found and every server that answered may be behind.
const DOUBT: &str = "no server that answered is sure of this: none of them knows an up-to-date leader, or \
                     their disks are low; see piccolo status";

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
    let (found, doubt, claims) = process::block_on_this_thread(async {
        let (found, doubt) = client.find_with_doubt(&query, COMMAND_ANSWER_TIMEOUT).await?;
        let holders = found.as_ref().filter(|_| !asked.json).map(|found| &found.holders[..]);
        let claims = claims::ask(&key, holders.unwrap_or_default()).await;
        Ok((found, doubt, claims))
    })?;
    let exit = if found.is_some() { Exit::Done } else { Exit::NotFound };
    let answer = found.unwrap_or(FindResponse { key, group, holders: Vec::new(), total: 0, flight: None });
    if asked.json {
        print_json(&answer)?;
    } else {
        print(&text(&answer, &claims, Paint::stdout()))?;
    }
    if doubt && exit == Exit::NotFound {
        // An error here means that stderr is closed.
        _ = writeln!(std::io::stderr().lock(), "piccolo: {DOUBT}");
    }
    Ok(exit)
}

fn read(layers: &mut Layers) -> Option<(Asked, String)> {
    let asked = Asked::read(layers);
    let group = layers.required("group", |text| value::name(text, GROUP_BYTES_MAX, false));
    Some((asked?, group?))
}

fn text(answer: &FindResponse, claims: &[HolderClaim], paint: Paint) -> String {
    let count = match answer.holders.len() {
        0 => paint.bad("nobody"),
        1 => paint.good("1 node"),
        FINDKEY_COUNT_MAX => paint.good(&format!("{FINDKEY_COUNT_MAX} nodes or more")),
        count => paint.good(&format!("{count} nodes")),
    };
    let mut text = format!("{} in group {}: {count}\n", answer.key, answer.group);
    if claims::differ(claims) {
        text.push_str(&claims::text(claims, paint));
        // Holders beyond the first few were not asked.
        answer.holders.iter().skip(claims.len()).for_each(|holder| text.push_str(&format!("{holder}\n")));
        return text;
    }
    for holder in &answer.holders {
        text.push_str(&format!("{holder}\n"));
    }
    text
}
