//! Tests of the text of a cluster secret.

use std::time::Duration;

use super::super::authority::params;
use super::*;

const NOW: i64 = 1_796_133_061;

/// Key and certificate of each CA, as text.
fn parts(secret: &ClusterSecret) -> Vec<String> {
    let text = secret.to_text();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut parts = Vec::new();
    for line in lines {
        if line.starts_with("-----BEGIN") {
            parts.push(String::new());
        }
        if let Some(part) = parts.last_mut() {
            part.push_str(line);
        }
    }
    parts
}

fn names(secret: &ClusterSecret) -> Vec<String> {
    secret.authorities().iter().map(|authority| authority.facts().name.clone()).collect()
}

fn problem(text: &str) -> SecretProblem {
    ClusterSecret::parse(text.as_bytes()).unwrap_err()
}

#[test]
fn what_is_written_is_read_and_the_newest_is_the_last() {
    let mut secret = ClusterSecret::generate(NOW);
    secret.add(NOW + 1).unwrap();
    let read = ClusterSecret::parse(secret.to_text().as_bytes()).unwrap();
    assert_eq!(names(&read), names(&secret));
    assert_eq!(read.newest().facts(), secret.authorities()[1].facts());
    assert_eq!(read.to_text(), secret.to_text());
    assert_eq!(parts(&secret).len(), 4);
}

#[test]
fn a_rotation_adds_at_the_end_and_retires_the_first_but_never_the_last() {
    let mut secret = ClusterSecret::generate(NOW);
    assert_eq!(secret.retire(), Err(SecretProblem::Last));
    let old = names(&secret);
    secret.add(NOW).unwrap();
    let both = names(&secret);
    assert_eq!((&both[..1], both.len()), (&old[..], 2));
    secret.retire().unwrap();
    assert_eq!(names(&secret), both[1..]);
    for _ in 1..SECRET_CAS_MAX {
        secret.add(NOW).unwrap();
    }
    assert_eq!(secret.add(NOW), Err(SecretProblem::TooMany));
    assert!(ClusterSecret::parse(secret.to_text().as_bytes()).is_ok(), "as many as may be");
}

#[test]
fn a_text_that_is_cut_anywhere_is_refused_unless_a_whole_ca_is_left() {
    let mut secret = ClusterSecret::generate(NOW);
    secret.add(NOW).unwrap();
    let text = secret.to_text();
    let whole = ClusterSecret::parse(text.as_bytes()).unwrap();
    for end in 0..text.len() {
        match ClusterSecret::parse(&text.as_bytes()[..end]) {
            Ok(left) => assert_eq!(names(&left), names(&whole)[..left.authorities().len()], "{end}"),
            Err(problem) => assert!(
                matches!(problem, SecretProblem::Empty | SecretProblem::Cut | SecretProblem::Damaged { .. }),
                "{end}: {problem}"
            ),
        }
    }
}

#[test]
fn what_is_wrong_is_named_without_a_part_of_the_text() {
    let (one, two) = (ClusterSecret::generate(NOW), ClusterSecret::generate(NOW));
    let ([key, certificate], [other_key, other_certificate]) = (&parts(&one)[..], &parts(&two)[..]) else {
        panic!("each has two sections")
    };
    let damaged = key.replacen("MI", "!!", 1);
    let not_a_ca = {
        let key = rcgen::KeyPair::from_pem(key).unwrap();
        params("leaf", NOW, Duration::from_secs(60)).self_signed(&key).unwrap().pem()
    };
    let rsa = key.replace("PRIVATE KEY", "RSA PRIVATE KEY");
    let table = [
        ("", SecretProblem::Empty),
        ("nothing of this is PEM\n", SecretProblem::Empty),
        (certificate, SecretProblem::Order { place: 1, expected: "private key" }),
        (&rsa, SecretProblem::Order { place: 1, expected: "private key" }),
        (&[&**key, key].concat(), SecretProblem::Order { place: 2, expected: "certificate" }),
        (
            &[&**key, certificate, other_certificate].concat(),
            SecretProblem::Order { place: 3, expected: "private key" },
        ),
        (key, SecretProblem::Cut),
        (&damaged, SecretProblem::Damaged { whole: 0 }),
        (&[&**key, other_certificate].concat(), SecretProblem::Mismatch { place: 1 }),
        (&[&**key, certificate, other_key, certificate].concat(), SecretProblem::Mismatch { place: 2 }),
        (&[&**key, certificate, key, certificate].concat(), SecretProblem::Twice { place: 2 }),
        (&[&**key, &not_a_ca].concat(), SecretProblem::MayNotSign { place: 1 }),
        (
            &[&certificate.replace("CERTIFICATE", "PRIVATE KEY"), &**certificate].concat(),
            SecretProblem::Key { place: 1 },
        ),
        (
            &[&**key, &key.replace("PRIVATE KEY", "CERTIFICATE")].concat(),
            SecretProblem::Certificate { place: 1 },
        ),
    ];
    let secret_line = key.lines().nth(1).unwrap();
    for (text, expected) in table {
        let found = problem(text);
        assert_eq!(found, expected);
        let said = format!("{found} {found:?}");
        assert!(!said.contains(secret_line) && said.len() < 250, "{said}");
    }
}

#[test]
fn only_the_end_of_the_newest_ca_matters() {
    let mut secret = ClusterSecret::generate(NOW);
    let end = secret.newest().facts().until;
    assert_eq!(secret.check_valid(end), Ok(()));
    let expired = secret.check_valid(end + 1).unwrap_err();
    assert!(matches!(&expired, SecretProblem::Expired { until, .. } if *until == end), "{expired:?}");
    assert!(expired.to_string().contains(&date(end)), "{expired}");
    assert_eq!(secret.check_valid(0), Ok(()), "a clock that is behind is set some day");
    secret.add(end + 1).unwrap();
    assert_eq!(secret.check_valid(end + 1), Ok(()));
}

#[test]
fn no_debug_output_has_a_key() {
    let secret = ClusterSecret::generate(NOW);
    let key = parts(&secret)[0].lines().nth(1).unwrap().to_owned();
    let bytes = pem::parse(&parts(&secret)[0]).unwrap().into_contents();
    let said = format!("{secret:?} {secret:#?}");
    assert!(said.contains(&secret.newest().facts().name), "{said}");
    assert!(!said.contains(&key), "{said}");
    let private = format!("{:?}", &bytes[40..50]);
    assert!(
        !said.replace([' ', '\n'], "").contains(private.trim_matches(['[', ']']).replace(' ', "").as_str())
    );
}
