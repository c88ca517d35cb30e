//! Debian's docker-registry on a free loopback port.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::run;
use super::{Image, Process, SOON, free_port, status_of, within};

/// A registry, running or stopped.
pub struct Registry {
    pub name: String,
    process: Option<Process>,
    folder: PathBuf,
    /// True if every request needs [`READER`].
    is_private: bool,
}

/// The user of a private registry, `user:password`.
pub const READER: &str = "reader:open sesame";
/// [`READER`] as `htpasswd -B` writes it.
const READER_HASHED: &str = "reader:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n";

impl Registry {
    pub async fn start(folder: &Path) -> Self {
        Self::start_any(folder, "").await
    }

    /// Starts a registry whose requests need [`READER`].
    pub async fn start_private(folder: &Path) -> Self {
        let users = folder.join("htpasswd");
        fs::write(&users, READER_HASHED).unwrap();
        Self::start_any(folder, &format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display()))
            .await
    }

    async fn start_any(folder: &Path, auth: &str) -> Self {
        let name = format!("127.0.0.1:{}", free_port());
        let text = format!(
            "version: 0.1\nlog: {{level: info, formatter: json, accesslog: {{disabled: true}}}}\n\
             storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{name}'}}\n{auth}",
            folder.join("registry").display()
        );
        fs::write(folder.join("registry.yml"), text).unwrap();
        let is_private = !auth.is_empty();
        let mut registry = Self { name, process: None, folder: folder.to_owned(), is_private };
        registry.start_again().await;
        registry
    }

    /// Starts the registry on the same port again, after [`Registry::stop`].
    pub async fn start_again(&mut self) {
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(self.folder.join("registry.yml"));
        self.process = Some(Process::start(&self.folder, "registry", command));
        let url = format!("{}/v2/", self.url());
        let expected = if self.is_private { 401 } else { 200 };
        within("the registry answers", SOON, || async { status_of(&url).await.filter(|s| *s == expected) })
            .await;
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.name)
    }

    /// Pushes `image` as `name` (`repository:tag`); returns the whole reference.
    pub fn push(&self, image: &Image, name: &str) -> String {
        let target = format!("docker://{}/{name}", self.name);
        let source = format!("oci:{}:latest", image.folder.display());
        let mut copy = Command::new("skopeo");
        copy.args(["copy", "--quiet", "--preserve-digests", "--dest-tls-verify=false", &source, &target]);
        if self.is_private {
            copy.args(["--dest-creds", READER]);
        }
        run(&mut copy);
        format!("{}/{name}", self.name)
    }

    pub fn stop(&mut self) {
        self.process.take().expect("the registry runs").kill();
    }

    /// Number of answered requests with `method` and a path that contains `part`.
    pub fn requests(&self, method: &str, part: &str) -> usize {
        let log = fs::read_to_string(self.folder.join("registry.log")).unwrap();
        let is_one = |line: &str| {
            let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { return false };
            event["msg"] == "response completed"
                && event["http.request.method"] == method
                && event["http.request.uri"].as_str().is_some_and(|uri| uri.contains(part))
        };
        log.lines().filter(|line| is_one(line)).count()
    }
}
