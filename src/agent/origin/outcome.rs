//! Decides what an answer of a registry, or the lack of one, means for a tag. Pure.

use std::time::Duration;

use crate::limits::ORIGIN_PROBE_TIMEOUT;

/// What is known about the registry of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// A host gives a definite answer: the tag, a refusal, or that there is no such tag.
    Answers,
    /// No host accepts a connection.
    Gone,
    /// A host is there, but the manifest or the token that a pull needs is not available: 5xx, 429, or a
    /// connection that ends without an answer.
    HalfDown,
    /// Connected, without an answer so far.
    Slow,
    /// Connected, without an answer within [`crate::limits::ORIGIN_ANSWER_TIMEOUT`].
    Silent,
    /// Something answers that is no registry: a captive portal, or a page of a proxy.
    NotRegistry,
    /// Something failed that need not fail for containerd: a proxy, or a certificate.
    Unsure,
}

impl Outcome {
    /// Value of the metric's label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Outcome::Answers => "answers",
            Outcome::Gone => "gone",
            Outcome::HalfDown => "half_down",
            Outcome::Slow => "slow",
            Outcome::Silent => "silent",
            Outcome::NotRegistry => "not_registry",
            Outcome::Unsure => "unsure",
        }
    }

    /// Whether nodes may answer the tag in place of the registry (I6). `asked_again`: containerd was sent to
    /// the registry for this tag a moment ago, has fetched nothing since, and asks again.
    pub(crate) fn leaves_tag_to_nodes(self, asked_again: bool) -> bool {
        match self {
            Outcome::Answers | Outcome::Slow => false,
            Outcome::Gone | Outcome::HalfDown | Outcome::Silent | Outcome::NotRegistry => true,
            Outcome::Unsure => asked_again,
        }
    }

    /// Decides which outcome counts, of several hosts that containerd would ask, or of several ways to them.
    /// containerd goes on to the next host after any failure, so that one definite answer is enough. A host
    /// that may still answer is not outweighed by hosts that do not.
    fn weight(self) -> u8 {
        match self {
            Outcome::Answers => 6,
            Outcome::Slow => 5,
            Outcome::Unsure => 4,
            Outcome::HalfDown => 3,
            Outcome::Silent => 2,
            Outcome::NotRegistry => 1,
            Outcome::Gone => 0,
        }
    }

    /// The outcome with most [`Outcome::weight`]; without any host it is [`Outcome::Gone`].
    pub(super) fn of_all(outcomes: impl IntoIterator<Item = Outcome>) -> Outcome {
        outcomes.into_iter().max_by_key(|outcome| outcome.weight()).unwrap_or(Outcome::Gone)
    }
}

/// The outcome of the last probe that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) outcome: Outcome,
    /// Duration of the probe.
    pub(super) took: Duration,
}

/// The outcome as far as it is known, when a request can no longer wait for a running probe.
pub(super) fn unfinished(is_connected: bool, last: Option<Last>) -> Outcome {
    let was = |outcome| last.is_some_and(|last| last.outcome == outcome);
    let was_late = last.is_some_and(|last| last.took > ORIGIN_PROBE_TIMEOUT);
    match is_connected {
        // The time to wait for it was used up when it was asked before.
        true if was(Outcome::Silent) => Outcome::Silent,
        true => Outcome::Slow,
        // The registry is so far away that connecting takes that long.
        false if was_late && was(Outcome::Answers) => Outcome::Slow,
        false => Outcome::Gone,
    }
}

/// How much the word of a host counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    /// containerd's configuration or a table names the host, or it speaks TLS: any refusal counts.
    Named,
    /// Port 80 of a name that nobody says to speak http: only an answer that looks like a registry's counts.
    Guessed,
}

/// The parts of an answer that decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: u16,
    /// Whether it has a header or content type that only registries send.
    pub(super) is_registry_like: bool,
    /// The URL of the token: `realm`, `service` and `scope` of a Bearer challenge.
    pub(super) token_url: Option<String>,
    /// Target of a redirect.
    pub(super) location: Option<Location>,
    /// Whether the answer came through a proxy that could have made it up.
    pub(super) may_be_of_proxy: bool,
}

/// Target of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) url: String,
    pub(super) is_same_host: bool,
    /// Whether its path belongs to the distribution API.
    pub(super) is_api: bool,
}

/// The next step after an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Done(Outcome),
    Follow(String),
    Token(String),
}

/// The meaning of the answer to the HEAD of a manifest.
pub(super) fn of_manifest(reply: &Reply, trust: Trust) -> Step {
    let Reply { status, is_registry_like, .. } = *reply;
    if trust == Trust::Guessed && !is_registry_like && reply.location.is_none() {
        return Step::Done(Outcome::NotRegistry);
    }
    match status {
        200..=299 if is_registry_like => Step::Done(Outcome::Answers),
        200..=299 => Step::Done(Outcome::NotRegistry),
        300..=399 => match &reply.location {
            Some(location) if location.is_api || (location.is_same_host && trust == Trust::Named) => {
                Step::Follow(location.url.clone())
            }
            _ => Step::Done(Outcome::NotRegistry),
        },
        401 => reply.token_url.clone().map_or(Step::Done(Outcome::Answers), Step::Token),
        407 => Step::Done(Outcome::Unsure),
        429 | 500.. if reply.may_be_of_proxy && !is_registry_like => Step::Done(Outcome::Unsure),
        429 | 500.. => Step::Done(Outcome::HalfDown),
        _ => Step::Done(Outcome::Answers),
    }
}

/// The meaning of the answer of a token service; `None` if it gives a token.
pub(super) fn of_token(status: u16, may_be_of_proxy: bool) -> Option<Outcome> {
    match status {
        407 => Some(Outcome::Unsure),
        429 | 500.. if may_be_of_proxy => Some(Outcome::Unsure),
        429 | 500.. => Some(Outcome::HalfDown),
        _ => None,
    }
}

/// Why there was no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection, because of the name, the route, the port, or TLS that the other side refuses.
    Connect,
    /// No CA known here signed the certificate. `strict`: only those of the operator's table count.
    Certificate { strict: bool },
    /// A client certificate is missing that containerd may be able to read.
    ClientCertificate,
    /// The proxy is there, and gave no connection.
    Tunnel,
    /// The connection ended without an answer.
    Broken,
    /// There was no answer in all the time that a probe has.
    Late { is_connected: bool },
}

/// The meaning of a failure.
pub(super) fn of_failure(failure: Failure) -> Outcome {
    match failure {
        Failure::Connect | Failure::Certificate { strict: true } | Failure::Late { is_connected: false } => {
            Outcome::Gone
        }
        Failure::Certificate { strict: false } | Failure::ClientCertificate | Failure::Tunnel => {
            Outcome::Unsure
        }
        Failure::Broken => Outcome::HalfDown,
        Failure::Late { is_connected: true } => Outcome::Silent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, is_registry_like: bool) -> Reply {
        Reply { status, is_registry_like, ..Reply::default() }
    }

    fn redirect(is_same_host: bool, is_api: bool) -> Reply {
        let location = Some(Location { url: "there".to_owned(), is_same_host, is_api });
        Reply { location, ..reply(307, false) }
    }

    #[test]
    fn what_a_registry_refuses_is_an_answer_and_what_it_cannot_give_is_none() {
        use Outcome::{Answers, HalfDown, NotRegistry};
        for (status, like_a_registry, otherwise) in [
            (200, Answers, NotRegistry),
            (401, Answers, Answers),
            (403, Answers, Answers),
            (404, Answers, Answers),
            (400, Answers, Answers),
            (429, HalfDown, HalfDown),
            (500, HalfDown, HalfDown),
            (503, HalfDown, HalfDown),
            (302, NotRegistry, NotRegistry),
        ] {
            assert_eq!(
                of_manifest(&reply(status, true), Trust::Named),
                Step::Done(like_a_registry),
                "{status}"
            );
            assert_eq!(of_manifest(&reply(status, false), Trust::Named), Step::Done(otherwise), "{status}");
            let guessed = of_manifest(&reply(status, false), Trust::Guessed);
            assert_eq!(guessed, Step::Done(NotRegistry), "a page on port 80 with {status}");
            assert_eq!(of_manifest(&reply(status, true), Trust::Guessed), Step::Done(like_a_registry));
        }
    }

    #[test]
    fn a_redirect_is_followed_inside_the_registry_and_to_another_registry() {
        for (is_same_host, is_api, named, guessed) in [
            (true, true, true, true),
            (true, false, true, false),
            (false, true, true, true),
            (false, false, false, false),
        ] {
            let step = |follows| {
                if follows { Step::Follow("there".into()) } else { Step::Done(Outcome::NotRegistry) }
            };
            assert_eq!(of_manifest(&redirect(is_same_host, is_api), Trust::Named), step(named));
            assert_eq!(of_manifest(&redirect(is_same_host, is_api), Trust::Guessed), step(guessed));
        }
    }

    #[test]
    fn a_challenge_leads_to_the_token_service_which_is_there_unless_it_cannot_answer() {
        let challenge = Reply { token_url: Some("https://auth.example/token".into()), ..reply(401, true) };
        assert_eq!(of_manifest(&challenge, Trust::Named), Step::Token("https://auth.example/token".into()));
        for (status, expected) in [
            (200, None),
            (401, None),
            (403, None),
            (404, None),
            (429, Some(Outcome::HalfDown)),
            (503, Some(Outcome::HalfDown)),
        ] {
            assert_eq!(of_token(status, false), expected, "{status}");
        }
        assert_eq!(of_token(502, true), Some(Outcome::Unsure));
    }

    #[test]
    fn an_error_of_a_proxy_says_nothing_about_the_registry() {
        let of_proxy = |status, like| Reply { may_be_of_proxy: true, ..reply(status, like) };
        for status in [429, 502, 503, 504] {
            assert_eq!(of_manifest(&of_proxy(status, false), Trust::Named), Step::Done(Outcome::Unsure));
            assert_eq!(of_manifest(&of_proxy(status, true), Trust::Named), Step::Done(Outcome::HalfDown));
        }
        assert_eq!(of_manifest(&reply(407, false), Trust::Named), Step::Done(Outcome::Unsure));
        assert_eq!(of_failure(Failure::Tunnel), Outcome::Unsure);
    }

    #[test]
    fn one_definite_answer_of_several_hosts_decides() {
        use Outcome::{Answers, Gone, HalfDown, NotRegistry, Silent, Slow, Unsure};
        for (outcomes, expected) in [
            (vec![], Gone),
            (vec![Gone, Answers], Answers),
            (vec![HalfDown, Answers, Slow], Answers),
            (vec![Gone, Slow], Slow),
            (vec![HalfDown, Slow, Unsure], Slow),
            (vec![Unsure, Gone], Unsure),
            (vec![Gone, HalfDown, NotRegistry], HalfDown),
            (vec![Silent, Gone], Silent),
            (vec![NotRegistry, Gone], NotRegistry),
        ] {
            assert_eq!(Outcome::of_all(outcomes.clone()), expected, "{outcomes:?}");
        }
    }

    /// Holds I6: nodes answer a tag only where the registry cannot.
    #[test]
    fn nodes_answer_a_tag_only_where_the_registry_cannot() {
        use Outcome::{Answers, Gone, HalfDown, NotRegistry, Silent, Slow, Unsure};
        for (outcome, first, again) in [
            (Answers, false, false),
            (Slow, false, false),
            (Unsure, false, true),
            (Gone, true, true),
            (HalfDown, true, true),
            (Silent, true, true),
            (NotRegistry, true, true),
        ] {
            assert_eq!(outcome.leaves_tag_to_nodes(false), first, "{outcome:?}");
            assert_eq!(outcome.leaves_tag_to_nodes(true), again, "{outcome:?} when asked again");
        }
    }

    #[test]
    fn a_probe_that_goes_on_is_judged_by_its_connection_and_by_the_last_one() {
        let last = |outcome, millis| Some(Last { outcome, took: Duration::from_millis(millis) });
        for (is_connected, last, expected) in [
            (true, None, Outcome::Slow),
            (false, None, Outcome::Gone),
            (true, last(Outcome::Answers, 1_200), Outcome::Slow),
            (true, last(Outcome::Silent, 10_000), Outcome::Silent),
            (true, last(Outcome::Gone, 10), Outcome::Slow),
            (false, last(Outcome::Answers, 1_500), Outcome::Slow),
            (false, last(Outcome::Answers, 100), Outcome::Gone),
        ] {
            assert_eq!(unfinished(is_connected, last), expected, "{is_connected} {last:?}");
        }
    }
}
