//! Tells a connection's [`ConnectionState`] when requests begin and when their responses are done or given up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use granary_s3::Peer;
use hyper::body::{Body, Frame, SizeHint};
use hyper::service::Service;
use hyper::{Request, Response, Version};
use pin_project_lite::pin_project;

use super::timed::ConnectionState;

/// One request in flight; dropped when its response is done or nobody wants it any more.
struct InFlight(Arc<ConnectionState>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A service whose requests are counted.
pub(super) struct Tracked<S> {
    service: S,
    state: Arc<ConnectionState>,
    peer: Option<Peer>,
}

impl<S> Tracked<S> {
    /// `peer`: put into every request's extensions.
    pub(super) const fn new(service: S, state: Arc<ConnectionState>, peer: Option<Peer>) -> Self {
        Self { service, state, peer }
    }
}

impl<S, I, B> Service<Request<I>> for Tracked<S>
where
    S: Service<Request<I>, Response = Response<B>>,
    S::Future: Send + 'static,
{
    type Response = Response<TrackedBody<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, mut request: Request<I>) -> Self::Future {
        if let Some(peer) = self.peer {
            request.extensions_mut().insert(peer);
        }
        self.state.begin(request.version() == Version::HTTP_2);
        let guard = InFlight(Arc::clone(&self.state));
        let response = self.service.call(request);
        Box::pin(async move { Ok(response.await?.map(|body| TrackedBody { body, _guard: guard })) })
    }
}

pin_project! {
    /// A response body that holds its request's place until it is sent or dropped.
    pub(super) struct TrackedBody<B> {
        #[pin]
        body: B,
        _guard: InFlight,
    }
}

impl<B: Body> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
