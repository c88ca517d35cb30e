//! Asks the holders of a tag for its digest, to show where they differ.

use std::net::SocketAddr;

use crate::agent::content::tag_claims::{Claim, Ruling, age_text, rule};
use crate::agent::fetch::claims_of_holders;
use crate::cli::output::{Paint, table};
use crate::limits::{FIND_HOLDER_TIMEOUT, TAG_HOLDERS_ASKED_MAX};

/// A holder, with its claim or the reason why there is none.
pub(super) type HolderClaim = (String, Result<Claim, String>);

/// Asks the first [`TAG_HOLDERS_ASKED_MAX`] of `holders` for the digest of the tag `key`. Asks nobody if
/// `key` is a digest.
pub(super) async fn ask(key: &str, holders: &[String]) -> Vec<HolderClaim> {
    let holders = &holders[..holders.len().min(TAG_HOLDERS_ASKED_MAX)];
    let addresses: Option<Vec<SocketAddr>> = holders.iter().map(|holder| holder.parse().ok()).collect();
    let Some(addresses) = addresses else { return Vec::new() };
    let claims = claims_of_holders(key, &addresses, FIND_HOLDER_TIMEOUT).await.unwrap_or_default();
    let claims = claims.into_iter().map(|claim| claim.map_err(|error| error.to_string()));
    holders.iter().cloned().zip(claims).collect()
}

/// True if the holders claim different digests.
pub(super) fn differ(claims: &[HolderClaim]) -> bool {
    let mut digests = claims.iter().filter_map(|(_, claim)| claim.as_ref().ok()).map(|claim| &claim.digest);
    let first = digests.next();
    digests.any(|digest| Some(digest) != first)
}

/// One line for each holder, and which digest counts.
pub(super) fn text(claims: &[HolderClaim], paint: Paint) -> String {
    let row = |(holder, claim): &HolderClaim| match claim {
        Ok(claim) => vec![holder.clone(), claim.digest.to_string(), age_text(claim.age)],
        Err(error) => vec![holder.clone(), "no claim".to_owned(), error.clone()],
    };
    let rows: Vec<Vec<String>> = claims.iter().map(row).collect();
    let claims: Vec<Claim> = claims.iter().filter_map(|(_, claim)| claim.clone().ok()).collect();
    let ruling = match rule(&claims) {
        Ruling::Newest(digest) => format!("{} was set last: nodes with tags = \"peers\" take it", digest),
        Ruling::Tie(_) => paint.bad(
            "different images were set at the same time: nodes with tags = \"peers\" refuse this tag. Import \
             the right image again on one node",
        ),
        Ruling::Nothing => String::new(),
    };
    format!("{}{ruling}\n", table(&["HOLDER", "DIGEST", "IMPORTED"], &rows, paint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;
    use std::time::Duration;

    fn claims(of: &[(&str, Option<u64>)]) -> Vec<HolderClaim> {
        let mut claims: Vec<HolderClaim> = of
            .iter()
            .enumerate()
            .map(|(number, (content, age))| {
                let holder = format!("10.0.0.{number}:7781");
                let digest = Digest::of(content.as_bytes());
                (holder.clone(), Ok(Claim { holder, digest, age: age.map(Duration::from_secs) }))
            })
            .collect();
        claims.push(("10.0.0.9:7781".to_owned(), Err("no connection in time".to_owned())));
        claims
    }

    #[test]
    fn holders_that_say_the_same_are_not_shown_with_it() {
        assert!(!differ(&claims(&[("v1", Some(5)), ("v1", None)])));
        assert!(!differ(&[]));
        assert!(differ(&claims(&[("v1", Some(5)), ("v2", None)])));
    }

    #[test]
    fn holders_that_differ_are_shown_with_digest_and_age_and_with_what_follows() {
        let text_of = |of: &[(&str, Option<u64>)]| text(&claims(of), Paint::plain());
        let newest = text_of(&[("v1", Some(300)), ("v2", Some(30))]);
        let v2 = Digest::of(b"v2");
        for part in ["10.0.0.0:7781", "set 5 min ago", "set 30 s ago", "no connection in time"] {
            assert!(newest.contains(part), "{part}: {newest}");
        }
        assert!(newest.contains(&format!("{v2} was set last")), "{newest}");
        let tie = text_of(&[("v1", None), ("v2", None)]);
        assert!(tie.contains("refuse this tag"), "{tie}");
    }
}
