//! Open sockets on their way to another process: to the worker, and to the next version of the
//! supervisor. They travel as a message on the Unix socket that the receiver has as stdin, because a
//! descriptor that is merely inherited could only be picked up with `unsafe`.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use crate::agent::{self, Listeners};
use crate::config::Logging;

/// Three ports, and the wire to a worker.
const SOCKETS_MAX: usize = 4;
/// Far more than a letter has, bytes: a filter of log lines may be long. Less than what the kernel delivers of a
/// stream at a time.
const LETTER_BYTES_MAX: usize = 16 * 1024;

/// Where an agent listens: as it was told, and the sockets.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) told: Told,
    pub(super) mirror: TcpListener,
    pub(super) peer: TcpListener,
    pub(super) metrics: TcpListener,
}

/// The addresses in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Told {
    mirror: SocketAddr,
    peer: SocketAddr,
    metrics: SocketAddr,
}

/// What goes with the sockets. Another version reads it: fields may be added, with a default, and
/// none may change its meaning.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Letter {
    told: Told,
    /// The worker that serves, whose wire is the fourth socket.
    #[serde(default)]
    serving: Option<i32>,
    /// Workers that are on their way out.
    #[serde(default)]
    ending: Vec<i32>,
    /// Only in the letter of a process to the supervisor that it becomes, which is of the same version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    duty: Option<Duty>,
}

/// What a supervisor needs of the configuration, which it does not read itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Duty {
    /// How it logs.
    pub(super) logging: Logging,
    /// The process with which it ends.
    pub(super) parent: Option<u32>,
}

/// What lay in stdin.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) ports: Ports,
    pub(super) workers: Option<Workers>,
    pub(super) duty: Option<Duty>,
}

/// The workers that the next supervisor takes over.
#[derive(Debug)]
pub(super) struct Workers {
    pub(super) serving: (i32, OwnedFd),
    pub(super) ending: Vec<i32>,
}

impl Told {
    pub(super) fn of(config: &agent::Config) -> Self {
        let (mirror, peer) = (config.mirror_listen, config.peer_listen);
        Self { mirror, peer, metrics: config.metrics_listen }
    }
}

impl Told {
    /// Whether sockets that were opened for `self` serve for `other`. Before `[::]` became the default of the
    /// peer port that was `0.0.0.0`: a new version takes such a port over, and listens on all addresses when
    /// the service is restarted.
    pub(super) fn serves_for(&self, other: &Self) -> bool {
        let all_ipv4 = self.peer.is_ipv4() && self.peer.ip().is_unspecified();
        let was_default =
            all_ipv4 && other.peer == SocketAddr::from((Ipv6Addr::UNSPECIFIED, self.peer.port()));
        self == other || (was_default && Self { peer: other.peer, ..*self } == *other)
    }
}

impl Ports {
    /// Opens them. Needs a runtime to run in.
    pub(super) async fn open(told: Told) -> Result<Self, agent::Error> {
        let Listeners { mirror, peer, metrics } =
            Listeners::bind(told.mirror, told.peer, told.metrics).await?;
        let std = |listener: tokio::net::TcpListener| listener.into_std().map_err(agent::Error::Listener);
        Ok(Self { told, mirror: std(mirror)?, peer: std(peer)?, metrics: std(metrics)? })
    }

    /// For the runtime that serves them.
    pub(super) fn into_listeners(self) -> io::Result<Listeners> {
        let Self { told: _, mirror, peer, metrics } = self;
        let [mirror, peer, metrics] = [mirror, peer, metrics].map(tokio::net::TcpListener::from_std);
        Ok(Listeners { mirror: mirror?, peer: peer?, metrics: metrics? })
    }

    /// A socket with a letter in it, for the stdin of a worker.
    pub(super) fn for_worker(&self) -> io::Result<(UnixStream, OwnedFd)> {
        let (ours, theirs) = UnixStream::pair()?;
        self.post(&ours, &[], &self.letter())?;
        Ok((ours, theirs.into()))
    }

    /// The same for the stdin of the next supervisor. Our end may be closed: the letter stays.
    pub(super) fn for_supervisor(
        &self,
        (serving, wire): (i32, BorrowedFd<'_>),
        ending: Vec<i32>,
    ) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        self.post(&ours, &[wire], &Letter { serving: Some(serving), ending, ..self.letter() })?;
        Ok(theirs.into())
    }

    /// The same for the stdin of the supervisor that this process becomes, with all that it has to know.
    pub(super) fn for_duty(&self, workers: Option<&Workers>, duty: Duty) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let letter = Letter { duty: Some(duty), ..self.letter() };
        match workers {
            None => self.post(&ours, &[], &letter)?,
            Some(Workers { serving: (pid, wire), ending }) => {
                let letter = Letter { serving: Some(*pid), ending: ending.clone(), ..letter };
                self.post(&ours, &[wire.as_fd()], &letter)?;
            }
        }
        Ok(theirs.into())
    }

    /// A letter for a process that has to know only the ports.
    fn letter(&self) -> Letter {
        Letter { told: self.told, serving: None, ending: Vec::new(), duty: None }
    }

    fn post(&self, to: &UnixStream, wire: &[BorrowedFd<'_>], letter: &Letter) -> io::Result<()> {
        let text = serde_json::to_vec(letter)?;
        let ports = [self.mirror.as_fd(), self.peer.as_fd(), self.metrics.as_fd()];
        let sockets = [&ports, wire].concat();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(&sockets));
        assert!(fits, "a letter has room for {SOCKETS_MAX} sockets");
        if text.len() > LETTER_BYTES_MAX {
            return Err(io::Error::other(format!("more than {LETTER_BYTES_MAX} bytes of settings")));
        }
        // One message: the buffer of a fresh socket takes it whole.
        sendmsg(to, &[IoSlice::new(&text)], &mut control, SendFlags::empty())?;
        Ok(())
    }

    /// Takes what lies in `from`.
    pub(super) fn receive(from: impl AsFd) -> io::Result<Received> {
        let mut text = vec![0; LETTER_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(from, &mut [IoSliceMut::new(&mut text)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let letter: Letter = serde_json::from_slice(&text[..received.bytes])?;
        let mut sockets = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => sockets.collect(),
            _ => Vec::new(),
        });
        let mut next = || sockets.next().ok_or_else(|| io::Error::other("a socket is missing"));
        let ports =
            Self { told: letter.told, mirror: next()?.into(), peer: next()?.into(), metrics: next()?.into() };
        let workers = match letter.serving {
            Some(pid) => Some(Workers { serving: (pid, next()?), ending: letter.ending }),
            None => None,
        };
        Ok(Received { ports, workers, duty: letter.duty })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;

    #[test]
    fn the_default_peer_port_of_an_older_version_serves_for_that_of_this_one() {
        let told = |peer: &str, metrics: &str| {
            let [mirror, peer, metrics] = ["127.0.0.1:1", peer, metrics].map(|text| text.parse().unwrap());
            Told { mirror, peer, metrics }
        };
        let old = told("0.0.0.0:7781", "127.0.0.1:2");
        assert!(old.serves_for(&old) && old.serves_for(&told("[::]:7781", "127.0.0.1:2")));
        for other in [
            told("[::]:7782", "127.0.0.1:2"),
            told("[::]:7781", "127.0.0.1:3"),
            told("127.0.0.2:7781", "127.0.0.1:2"),
        ] {
            assert!(!old.serves_for(&other), "{other:?}");
        }
        assert!(!told("[::]:7781", "127.0.0.1:2").serves_for(&old), "it would listen on more than is wanted");
    }

    async fn open() -> Ports {
        let any = "127.0.0.1:0".parse().unwrap();
        Ports::open(Told { mirror: any, peer: any, metrics: any }).await.unwrap()
    }

    #[tokio::test]
    async fn a_worker_gets_the_same_sockets() {
        let ports = open().await;
        let (_ours, theirs) = ports.for_worker().unwrap();
        let Received { ports: received, workers, duty } = Ports::receive(&theirs).unwrap();
        assert!(workers.is_none() && duty.is_none());
        assert_eq!(received.told, ports.told);
        for (sent, got) in [
            (&ports.mirror, &received.mirror),
            (&ports.peer, &received.peer),
            (&ports.metrics, &received.metrics),
        ] {
            assert_eq!(sent.local_addr().unwrap(), got.local_addr().unwrap());
        }
    }

    #[tokio::test]
    async fn the_next_supervisor_gets_the_workers_too() {
        let ports = open().await;
        let (wire, other_end) = UnixStream::pair().unwrap();
        let stdin = ports.for_supervisor((17, wire.as_fd()), vec![15, 16]).unwrap();
        let received = Ports::receive(&stdin).unwrap();
        assert_eq!(received.duty, None, "another version could not read it");
        let Workers { serving: (pid, wire), ending } = received.workers.unwrap();
        assert_eq!((pid, ending), (17, vec![15, 16]));
        io::Write::write_all(&mut &other_end, b"x").unwrap();
        io::Read::read_exact(&mut UnixStream::from(wire), &mut [0]).unwrap();
    }

    #[tokio::test]
    async fn a_supervisor_gets_its_duty_and_the_workers_before_it() {
        let ports = open().await;
        let duty = |filter: String| Duty {
            logging: Logging { format: LogFormat::Json, level: "info".to_owned(), filter },
            parent: Some(3),
        };
        let first = Ports::receive(ports.for_duty(None, duty("info".to_owned())).unwrap()).unwrap();
        assert!(first.workers.is_none());
        assert_eq!(first.duty, Some(duty("info".to_owned())));

        let (wire, _other_end) = UnixStream::pair().unwrap();
        let workers = Workers { serving: (17, wire.into()), ending: vec![15] };
        let long = duty("x".repeat(LETTER_BYTES_MAX / 2));
        let next = Ports::receive(ports.for_duty(Some(&workers), long.clone()).unwrap()).unwrap();
        let Workers { serving: (pid, _), ending } = next.workers.unwrap();
        assert_eq!((pid, ending, next.duty), (17, vec![15], Some(long)));
        assert!(ports.for_duty(None, duty("x".repeat(LETTER_BYTES_MAX))).is_err(), "it would be cut");
    }

    #[test]
    fn a_stdin_without_a_letter_is_an_error() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        drop(ours);
        assert!(Ports::receive(&theirs).is_err());
    }

    /// Written by the first version that had it.
    #[test]
    fn a_letter_of_an_older_version_is_understood() {
        let old = r#"{"told":{"mirror":"127.0.0.1:7780","peer":"0.0.0.0:7781","metrics":"127.0.0.1:7782"},"serving":7,"ending":[5],"later":1}"#;
        let letter: Letter = serde_json::from_str(old).unwrap();
        assert_eq!((letter.serving, letter.ending), (Some(7), vec![5]));
    }
}
