//! containerd's gRPC services, as far as the store needs them. Every call has the namespace and a deadline;
//! "not found" is an answer, and everything else is an error that names what was tried.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use containerd_client::types::Envelope;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status, Streaming};

use super::content_age::Ages;
use super::source_labels;
use crate::agent::content::store::{Fetched, Source, StoreCause, StoreError};
use crate::limits::{
    CONTAINERD_CALL_TIMEOUT, CONTAINERD_LIST_TIMEOUT, CONTAINERD_MARK_INTERVAL, CONTAINERD_MESSAGE_BYTES_MAX,
};
use crate::oci::Digest;

/// Topic of marks: own events, whose return proves that a subscription is active.
const MARK_TOPIC: &str = "/piccolo/watching";

/// One namespace of one containerd. Cheap to clone. It connects on first use, and again after a restart of
/// containerd.
#[derive(Clone, Debug)]
pub(super) struct Client {
    socket: PathBuf,
    namespace: String,
    header: MetadataValue<Ascii>,
    channel: Channel,
    ages: Arc<Ages>,
}

/// An ingest, as containerd lists it.
#[derive(Debug)]
pub(super) struct ActiveIngest {
    /// Its reference, without namespace and sequence.
    pub(super) name: String,
    /// The length that the blob will have, if it is known.
    pub(super) total_bytes: Option<u64>,
    pub(super) begun: Option<SystemTime>,
}

/// An image record of containerd.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) name: String,
    pub(super) target: String,
    /// When the record was written last. A pull or an import of the same name writes it anew, even if the
    /// target stays the same.
    pub(super) updated: Option<SystemTime>,
}

impl Client {
    /// Creates a client, which does not connect yet. Must be called within a tokio runtime.
    pub(super) fn new(socket: &Path, namespace: &str) -> Result<Self, StoreError> {
        let header = header(namespace)?;
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used, because the connector knows the socket.
        let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector);
        let ages = Arc::new(Ages::new());
        Ok(Self { socket: socket.to_owned(), namespace: namespace.to_owned(), header, channel, ages })
    }

    pub(super) fn socket(&self) -> &Path {
        &self.socket
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The same containerd with another namespace.
    pub(super) fn of(&self, namespace: &str) -> Result<Self, StoreError> {
        let header = header(namespace)?;
        Ok(Self { namespace: namespace.to_owned(), header, ..self.clone() })
    }

    /// Lists the namespaces of this containerd.
    pub(super) async fn namespaces(&self) -> Result<Vec<String>, StoreError> {
        let mut client = api::namespaces_client::NamespacesClient::new(self.channel.clone());
        let request = self.request(api::ListNamespacesRequest { filter: String::new() });
        let response = self.call("list namespaces", client.list(request)).await?;
        let namespaces = response.map(|response| response.namespaces).unwrap_or_default();
        Ok(namespaces.into_iter().map(|namespace| namespace.name).collect())
    }

    /// Reads all of a blob; `None` if it is not present or has more than `limit` bytes.
    pub(super) async fn read_whole(
        &self,
        digest: &Digest,
        limit: u64,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(size_bytes) = self.info(digest).await?.filter(|size| (1..=limit).contains(size)) else {
            return Ok(None);
        };
        let mut pieces = self.read(digest, 0, size_bytes);
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            // The file of the blob may be lost.
            let Ok(piece) = piece else { return Ok(None) };
            bytes.extend_from_slice(&piece);
        }
        Ok(Some(bytes))
    }

    fn content(&self) -> api::content_client::ContentClient<Channel> {
        api::content_client::ContentClient::new(self.channel.clone())
            .max_decoding_message_size(CONTAINERD_MESSAGE_BYTES_MAX)
    }

    fn images(&self) -> api::images_client::ImagesClient<Channel> {
        api::images_client::ImagesClient::new(self.channel.clone())
            .max_decoding_message_size(CONTAINERD_MESSAGE_BYTES_MAX)
    }

    fn events(&self) -> api::events_client::EventsClient<Channel> {
        api::events_client::EventsClient::new(self.channel.clone())
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("containerd-namespace", self.header.clone());
        request
    }

    /// Waits for one answer within its deadline; `None` if containerd says "not found".
    async fn call<T>(
        &self,
        action: &'static str,
        answer: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<Option<T>, StoreError> {
        match self.within(CONTAINERD_CALL_TIMEOUT, answer).await? {
            Ok(response) => Ok(Some(response.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(self.error(action, &status)),
        }
    }

    async fn within<T>(&self, limit: Duration, answer: impl Future<Output = T>) -> Result<T, StoreError> {
        tokio::time::timeout(limit, answer).await.map_err(|_| self.no_answer_within(limit))
    }

    fn no_answer_within(&self, limit: Duration) -> StoreError {
        StoreError::Unreachable {
            store: self.socket.display().to_string(),
            cause: StoreCause::NoAnswer { seconds: limit.as_secs() },
        }
    }

    fn error(&self, action: &'static str, status: &Status) -> StoreError {
        let mut words = status.message().to_owned();
        let mut source = status.source();
        while let Some(error) = source {
            words = error.to_string(); // the innermost error is that of the system
            source = error.source();
        }
        let cause = StoreCause::Said { words };
        if status.code() == Code::Unavailable || status.source().is_some() {
            return StoreError::Unreachable { store: self.socket.display().to_string(), cause };
        }
        StoreError::failed(action, cause)
    }

    /// Length of content; `None` if the namespace does not know it.
    pub(super) async fn info(&self, digest: &Digest) -> Result<Option<u64>, StoreError> {
        let request = self.request(api::InfoRequest { digest: digest.to_string() });
        let response = self.call("ask for content", self.content().info(request)).await?;
        Ok(response.and_then(|response| response.info).map(|info| info.size.unsigned_abs()))
    }

    /// Lists all content that the namespace knows, with its length.
    pub(super) async fn list_content(&self) -> Result<BTreeMap<Digest, u64>, StoreError> {
        // The list is freed as a whole. A map that is built from it at once has full nodes.
        let mut found = Vec::new();
        let mut pages = self.content_pages();
        while let Some(page) = pages.try_next().await? {
            found.extend(page.into_iter().map(|(digest, info)| (digest, info.size.unsigned_abs())));
        }
        Ok(found.into_iter().collect())
    }

    /// Lists all content that the namespace knows, in containerd's own pages. All pages together have
    /// [`CONTAINERD_LIST_TIMEOUT`].
    fn content_pages(&self) -> BoxStream<'_, Result<Vec<(Digest, api::Info)>, StoreError>> {
        let deadline = Instant::now() + CONTAINERD_LIST_TIMEOUT;
        let start = async move {
            let request = self.request(api::ListContentRequest { filters: Vec::new() });
            let mut content = self.content();
            self.list_call(deadline, content.list(request)).await.map(Response::into_inner)
        };
        let pages = move |answer: Streaming<api::ListContentResponse>| {
            stream::try_unfold(answer, move |mut answer| async move {
                let page = self.list_call(deadline, answer.message()).await?;
                Ok(page.map(|page| (with_digests(page.info), answer)))
            })
        };
        stream::once(start).map_ok(pages).try_flatten().boxed()
    }

    /// Waits for one step of the list of content, within the deadline of the whole list.
    async fn list_call<T>(
        &self,
        deadline: Instant,
        answer: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, StoreError> {
        let answered = tokio::time::timeout_at(deadline, answer).await;
        let answered = answered.map_err(|_| self.no_answer_within(CONTAINERD_LIST_TIMEOUT))?;
        answered.map_err(|status| self.error("list content", &status))
    }

    /// Lists where all content of the namespace was fetched from, in pages.
    pub(super) fn list_fetched(&self) -> BoxStream<'_, Result<Vec<Source>, StoreError>> {
        let sources = |(digest, info): (Digest, api::Info)| {
            let fetched = self.fetched(&digest, &info);
            let unrecorded = fetched.is_unrecorded.then(|| Source::Unrecorded { digest: digest.clone() });
            let names = fetched.names.into_iter();
            names.map(move |name| Source::Fetched { digest: digest.clone(), name }).chain(unrecorded)
        };
        self.content_pages().map_ok(move |page| page.into_iter().flat_map(sources).collect()).boxed()
    }

    /// The recorded source of one blob.
    pub(super) async fn fetched_from(&self, digest: &Digest) -> Result<Fetched, StoreError> {
        let request = self.request(api::InfoRequest { digest: digest.to_string() });
        let response = self.call("ask for content", self.content().info(request)).await?;
        let info = response.and_then(|response| response.info);
        Ok(info.map(|info| self.fetched(digest, &info)).unwrap_or_default())
    }

    fn fetched(&self, digest: &Digest, info: &api::Info) -> Fetched {
        source_labels::of(digest, info, &mut self.ages.newness(), self.ages.now())
    }

    /// Reads bytes of content, in the pieces that containerd sends.
    pub(super) fn read(
        &self,
        digest: &Digest,
        offset: u64,
        length: u64,
    ) -> BoxStream<'static, Result<bytes::Bytes, StoreError>> {
        let action = "read content";
        let (client, digest) = (self.clone(), digest.to_string());
        let request =
            api::ReadContentRequest { digest, offset: offset.cast_signed(), size: length.cast_signed() };
        let start = async move {
            let answer = client
                .within(CONTAINERD_CALL_TIMEOUT, client.content().read(client.request(request)))
                .await?;
            let stream = answer.map_err(|status| client.error(action, &status))?.into_inner();
            Ok::<_, StoreError>(stream.map(move |piece| match piece {
                Ok(piece) => Ok(bytes::Bytes::from(piece.data)),
                Err(status) => Err(client.error(action, &status)),
            }))
        };
        stream::once(start).try_flatten().boxed()
    }

    /// Whether containerd can read the first byte of content that is not empty. False only if containerd says
    /// that the content, or its file, does not exist.
    pub(super) async fn can_read(&self, digest: &Digest) -> Result<bool, StoreError> {
        let request = api::ReadContentRequest { digest: digest.to_string(), offset: 0, size: 1 };
        let first_piece =
            async { self.content().read(self.request(request)).await?.into_inner().message().await };
        match self.within(CONTAINERD_CALL_TIMEOUT, first_piece).await? {
            Ok(piece) => Ok(piece.is_some()),
            Err(status) if status.code() == Code::NotFound => Ok(false),
            Err(status) => Err(self.error("read content", &status)),
        }
    }

    /// Lists all image records of the namespace.
    pub(super) async fn list_images(&self) -> Result<Vec<Image>, StoreError> {
        let request = self.request(api::ListImagesRequest { filters: Vec::new() });
        let response = self.call("list images", self.images().list(request)).await?;
        let images = response.map(|response| response.images).unwrap_or_default();
        Ok(images.into_iter().map(Image::from).collect())
    }

    /// Reads one image record; `None` if there is no such image.
    pub(super) async fn image(&self, name: &str) -> Result<Option<Image>, StoreError> {
        let request = self.request(api::GetImageRequest { name: name.to_owned() });
        let response = self.call("ask for an image", self.images().get(request)).await?;
        Ok(response.and_then(|response| response.image).map(Image::from))
    }

    /// Path of the content store's folder, as containerd sees it.
    pub(super) async fn content_root(&self) -> Result<Option<PathBuf>, StoreError> {
        let filters = vec!["type==io.containerd.content.v1".to_owned()];
        let request = self.request(api::PluginsRequest { filters });
        let mut client = api::introspection_client::IntrospectionClient::new(self.channel.clone());
        let response = self.call("ask for the content folder", client.plugins(request)).await?;
        let plugins = response.map(|response| response.plugins).unwrap_or_default();
        Ok(plugins.into_iter().find_map(|mut plugin| plugin.exports.remove("root")).map(PathBuf::from))
    }

    /// Subscribes to the namespace's images and content. The subscription is active when this returns:
    /// containerd answers a subscription only with its first event, so that own marks are published until one
    /// comes back.
    pub(super) async fn subscribe(
        &self,
    ) -> Result<BoxStream<'static, Result<Envelope, StoreError>>, StoreError> {
        let action = "subscribe to events";
        let namespace = &self.namespace;
        let filters = ["/images/", "/content/", MARK_TOPIC]
            .map(|topic| format!("namespace=={namespace},topic~=^{topic}"))
            .to_vec();
        let request = self.request(api::SubscribeRequest { filters });
        let mut client = self.events();
        let subscribed = async {
            tokio::select! {
                stream = client.subscribe(request) => stream.map_err(|status| self.error(action, &status)),
                error = self.publish_marks() => Err(error),
            }
        };
        let stream = self.within(CONTAINERD_CALL_TIMEOUT, subscribed).await??.into_inner();
        let client = self.clone();
        let envelopes = stream.map(move |envelope| envelope.map_err(|status| client.error(action, &status)));
        let marks = |envelope: &Result<Envelope, _>| {
            std::future::ready(!matches!(envelope, Ok(envelope) if envelope.topic == MARK_TOPIC))
        };
        Ok(envelopes.filter(marks).boxed())
    }

    async fn publish_marks(&self) -> StoreError {
        let event = prost_types::Any { type_url: "google.protobuf.Empty".into(), value: Vec::new() };
        loop {
            let mark = api::PublishRequest { topic: MARK_TOPIC.into(), event: Some(event.clone()) };
            if let Err(error) = self.call("publish an event", self.events().publish(self.request(mark))).await
            {
                return error;
            }
            tokio::time::sleep(CONTAINERD_MARK_INTERVAL).await;
        }
    }

    /// Lists all ingests of the namespace.
    pub(super) async fn ingests(&self) -> Result<Vec<ActiveIngest>, StoreError> {
        let request = self.request(api::ListStatusesRequest { filters: Vec::new() });
        let response = self.call("list ingests", self.content().list_statuses(request)).await?;
        let statuses = response.map(|response| response.statuses).unwrap_or_default();
        Ok(statuses.into_iter().map(ActiveIngest::from).collect())
    }

    /// Aborts one ingest. Returns whether there was one.
    pub(super) async fn abort(&self, ingest: &str) -> Result<bool, StoreError> {
        let request = self.request(api::AbortRequest { r#ref: ingest.to_owned() });
        Ok(self.call("abort an ingest", self.content().abort(request)).await?.is_some())
    }
}

/// Adds parsed digests to the entries of a page, and drops entries whose digest cannot be parsed.
fn with_digests(page: Vec<api::Info>) -> Vec<(Digest, api::Info)> {
    let with_digest = |info: api::Info| match info.digest.parse::<Digest>() {
        Ok(digest) => Some((digest, info)),
        Err(error) => {
            tracing::debug!(%error, "content skipped");
            None
        }
    };
    page.into_iter().filter_map(with_digest).collect()
}

impl From<api::Status> for ActiveIngest {
    fn from(status: api::Status) -> Self {
        Self {
            name: status.r#ref,
            total_bytes: u64::try_from(status.total).ok().filter(|total| *total > 0),
            begun: status.started_at.and_then(|begun| SystemTime::try_from(begun).ok()),
        }
    }
}

impl From<api::Image> for Image {
    fn from(image: api::Image) -> Self {
        Self {
            name: image.name,
            target: image.target.map(|target| target.digest).unwrap_or_default(),
            updated: image.updated_at.and_then(|updated| SystemTime::try_from(updated).ok()),
        }
    }
}

fn header(namespace: &str) -> Result<MetadataValue<Ascii>, StoreError> {
    let header = namespace.parse().ok().filter(|_| is_namespace(namespace));
    let cause = || StoreCause::NotANamespace { namespace: namespace.to_owned() };
    header.ok_or_else(|| StoreError::failed("use a containerd namespace", cause()))
}

/// containerd's own rule for names (`pkg/identifiers`). The name goes into a filter without quotes.
fn is_namespace(text: &str) -> bool {
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= 76
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_is_not_there_is_unreachable_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let client = Client::new(&folder.path().join("none.sock"), "k8s.io").unwrap();
        let error = client.list_images().await.unwrap_err();
        let StoreError::Unreachable { cause, .. } = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("No such file"), "{cause}");
    }

    #[tokio::test]
    async fn a_namespace_that_could_change_a_filter_is_refused() {
        for namespace in ["", "a,b", "k8s.io\n", "a==b", "-a"] {
            assert!(Client::new(Path::new("/x"), namespace).is_err(), "{namespace:?}");
        }
        assert!(Client::new(Path::new("/x"), "k8s.io").is_ok());
    }
}
