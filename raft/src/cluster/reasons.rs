//! Why the cluster has not formed.

use std::sync::Mutex;

/// Reasons why the cluster has not formed; each change is logged once.
#[derive(Debug, Default)]
pub(super) struct Reasons(Mutex<Vec<String>>);

impl Reasons {
    pub(super) fn get(&self) -> Vec<String> {
        self.0.lock().expect("nothing panics while it holds the reasons").clone()
    }

    pub(super) fn set(&self, reasons: Vec<String>) {
        let mut current = self.0.lock().expect("nothing panics while it holds the reasons");
        if *current != reasons {
            for reason in reasons.iter().filter(|reason| !current.contains(reason)) {
                tracing::warn!(reason, "the cluster has not formed");
            }
            *current = reasons;
        }
    }
}
