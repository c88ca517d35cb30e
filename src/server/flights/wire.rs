//! What a server sends to the owner of keys, and what that answers: JSON, one list for one list.

use serde::{Deserialize, Serialize};

use super::table::{Content, Node, Progress, Question, Sources};

/// What a node says of one flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It needs a source.
    Question(Question),
    /// It has come, and has its source from the owner's last answer to another node.
    Came(Node),
    /// How far it is.
    Progress(Node, Progress),
}

/// A message of a node that another server passes on to the owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightMessage {
    /// What it is about.
    pub content: Content,
    /// What the node says.
    pub said: Said,
}

/// The owner's answer to one message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlightAnswer {
    /// To a question.
    Sources(Sources),
    /// To a progress: whether the node's claim still stands; true to a node that has come.
    Stands(bool),
}

/// Messages that go to an owner together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightBatch {
    /// The messages.
    pub messages: Vec<FlightMessage>,
}

/// The answers, in the order of the messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightAnswers {
    /// One for each message.
    pub answers: Vec<FlightAnswer>,
}

/// A key as its text.
pub mod key_text {
    use piccolo_raft::model::Key;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes the text.
    pub fn serialize<S: Serializer>(key: &Key, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(key)
    }

    /// Reads the text.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers of different versions speak with each other during an upgrade.
    #[test]
    fn messages_keep_their_form() {
        let batch = r#"{"messages":[{"content":{"group":"g","key":"r/i:1"},"said":{"question":{"node":{"address":"10.0.0.1:7781","zone":"a","have_bytes":5,"transfer":3},"begins":true,"is_held":false,"is_starved":false,"lost":null,"owes":1}}},{"content":{"group":"g","key":"r/i:1"},"said":{"progress":[{"address":"10.0.0.1:7781","zone":"","have_bytes":6,"transfer":3},{"receives":{"depth":2}}]}},{"content":{"group":"g","key":"r/i:1"},"said":{"came":{"address":"10.0.0.4:7781","zone":"","have_bytes":0,"transfer":9}}}]}"#;
        let read: FlightBatch = serde_json::from_str(batch).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), batch);
        let answers = r#"{"answers":[{"sources":{"near":["10.0.0.2:7781"],"far":[],"fetcher":"10.0.0.3:7781","ruling":{"held_by":"10.0.0.3:7781"},"came":7}},{"stands":false}]}"#;
        let read: FlightAnswers = serde_json::from_str(answers).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), answers);
    }
}
