//! Turns an image name as people write it into a key of the index, by the rules of containerd and docker
//! (`reference/docker/reference.go`, `ParseDockerRef`).

use crate::oci::Digest;

/// The key of a digest, of an image with a digest, or of an image with or without registry and tag. `None`:
/// it is none of these.
pub(super) fn key(word: &str) -> Option<String> {
    if let Ok(digest) = word.parse::<Digest>() {
        return Some(digest.to_string());
    }
    if let Some((_, digest)) = word.split_once('@') {
        return digest.parse::<Digest>().ok().map(|digest| digest.to_string());
    }
    // A malformed digest; nobody names an image after a hash algorithm.
    if word.split_once(':').is_some_and(|(name, _)| is_algorithm(name)) {
        return None;
    }
    let (path, tag) = match word.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (word, "latest"),
    };
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest.to_owned()),
        Some(_) => ("docker.io", path.to_owned()),
        None => ("docker.io", format!("library/{path}")),
    };
    let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
    let right = is_tag(tag) && is_repository(&repository);
    right.then(|| format!("{registry}/{repository}:{tag}"))
}

fn is_algorithm(name: &str) -> bool {
    matches!(name, "sha256" | "sha384" | "sha512")
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag.bytes().all(|c| c.is_ascii_alphanumeric() || b"_.-".contains(&c))
        && !tag.starts_with(['.', '-'])
}

fn is_repository(repository: &str) -> bool {
    repository.split('/').all(|part| {
        !part.is_empty()
            && part.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || b"_.-".contains(&c))
            && part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part.ends_with(|c: char| c.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn short_names_become_whole_ones() {
        let cases = [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
            ("ghcr.io/org/app:1.2", "ghcr.io/org/app:1.2"),
            ("localhost/app", "localhost/app:latest"),
            ("10.0.0.1:5000/app", "10.0.0.1:5000/app:latest"),
            ("10.0.0.1:5000/a/b:v1", "10.0.0.1:5000/a/b:v1"),
        ];
        for (word, expected) in cases {
            assert_eq!(key(word).as_deref(), Some(expected), "{word}");
        }
    }

    #[test]
    fn a_digest_is_its_own_key_with_and_without_an_image() {
        assert_eq!(key(DIGEST).as_deref(), Some(DIGEST));
        assert_eq!(key(&format!("ghcr.io/org/app@{DIGEST}")).as_deref(), Some(DIGEST));
        assert_eq!(key(&format!("ghcr.io/org/app:1@{DIGEST}")).as_deref(), Some(DIGEST));
    }

    #[test]
    fn text_that_is_no_image_has_no_key() {
        for word in [
            "",
            "Nginx",
            "a b",
            "nginx:",
            "ghcr.io/",
            "/app",
            "app@sha256:12",
            "a//b",
            "app:-x",
            "sha256:12/",
            "sha256:xyz",
            "sha256:",
            "sha512:0123",
        ] {
            assert_eq!(key(word), None, "{word}");
        }
    }
}
