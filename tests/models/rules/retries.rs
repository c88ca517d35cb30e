//! Rules of retries at the same host.

use std::sync::Arc;

use super::{Pair, route, script};
use crate::blob::SMALL;
use crate::containerd::Version;
use crate::scripted::{Part, Script, Scripted, head, honest, status};

#[tokio::test]
async fn a_408_or_429_is_asked_again_at_the_same_host_up_to_a_limit() {
    for version in Version::ALL {
        for code in [408, 429] {
            let pair = Pair::new(SMALL, script(move |_, _| status(code))).await;
            let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
            let at_mirror = outcome.attempts.iter().filter(|attempt| attempt.host == 0).count();
            assert_eq!(at_mirror, if version == Version::V2_3 { 5 } else { 6 });
            assert_eq!(outcome.attempts.len(), at_mirror + 1);
        }
    }
}

#[tokio::test]
async fn a_429_that_passes_costs_no_other_host() {
    for version in Version::ALL {
        let busy = script(|blob, asked| if asked.number == 0 { status(429) } else { honest(blob, asked) });
        let pair = Pair::new(SMALL, busy).await;
        assert_eq!(route(&pair.pull(&pair.daemon(version)).await.unwrap()), [(0, None), (0, None)]);
    }
}

#[tokio::test]
async fn a_5xx_is_asked_again_once_at_the_registry_from_2_1_on() {
    for version in Version::ALL {
        for code in [500, 503, 504] {
            let registry =
                script(move |blob, asked| if asked.number == 0 { status(code) } else { honest(blob, asked) });
            let pair = Pair::with(SMALL, script(|_, _| status(404)), registry).await;
            let result = pair.pull(&pair.daemon(version)).await;
            assert_eq!(result.is_ok(), version != Version::V1_6, "{code} in {version:?}");
            let always =
                Pair::with(SMALL, script(|_, _| status(404)), script(move |_, _| status(code))).await;
            always.pull(&always.daemon(version)).await.unwrap_err();
            assert_eq!(always.registry.asked().len(), if version == Version::V1_6 { 1 } else { 2 });
        }
    }
}

#[tokio::test]
async fn a_close_before_headers_is_asked_again_at_the_registry_from_2_3_on_but_no_reset() {
    for version in Version::ALL {
        for part in [Part::Close, Part::Reset] {
            let is_close = matches!(part, Part::Close);
            let registry = script(
                move |blob, asked| {
                    if asked.number == 0 { vec![part.clone()] } else { honest(blob, asked) }
                },
            );
            let pair = Pair::with(SMALL, script(|_, _| status(404)), registry).await;
            let result = pair.pull(&pair.daemon(version)).await;
            assert_eq!(result.is_ok(), version == Version::V2_3 && is_close);
        }
    }
}

#[tokio::test]
async fn a_401_with_a_bearer_challenge_makes_it_fetch_a_token() {
    for version in Version::ALL {
        let issuer: Script =
            Arc::new(|_| vec![Part::Head(head(200, 14, &[])), Part::Body(r#"{"token":"xy"}"#.into())]);
        let issuer = Scripted::start("127.0.0.1", issuer).await;
        let challenge = format!("Bearer realm=\"http://{}/token\",service=\"it\"", issuer.address);
        let guarded = script(move |blob, asked| match asked.header("authorization") {
            Some("Bearer xy") => honest(blob, asked),
            _ => vec![Part::Head(head(401, 0, &[("WWW-Authenticate", &challenge)]))],
        });
        let pair = Pair::new(SMALL, guarded).await;
        assert_eq!(route(&pair.pull(&pair.daemon(version)).await.unwrap()), [(0, None), (0, None)]);
        assert_eq!(issuer.asked().len(), 1);
    }
}

#[tokio::test]
async fn a_401_that_cannot_be_met_moves_on() {
    for version in Version::ALL {
        for challenge in ["Basic realm=\"it\"", "Bearer realm=\"http://127.0.0.1:1/token\"", ""] {
            let guarded =
                script(move |_, _| vec![Part::Head(head(401, 0, &[("WWW-Authenticate", challenge)]))]);
            let pair = Pair::new(SMALL, guarded).await;
            assert_eq!(route(&pair.pull(&pair.daemon(version)).await.unwrap()), [(0, None), (1, None)]);
        }
    }
}

#[tokio::test]
async fn a_redirect_is_followed() {
    for version in Version::ALL {
        let pair = Pair::new(SMALL, script(|_, _| status(404))).await;
        let target = format!("http://{}/elsewhere/{}", pair.registry.address, pair.blob.digest);
        let redirect: Script = Arc::new(move |_| vec![Part::Head(head(307, 0, &[("Location", &target)]))]);
        let pair = Pair { mirror: Scripted::start("127.0.0.1", redirect).await, ..pair };
        pair.pull(&pair.daemon(version)).await.unwrap();
        assert_eq!(pair.registry.asked().len(), 1);
        assert!(pair.registry.asked()[0].target.starts_with("/elsewhere/"));
    }
}
