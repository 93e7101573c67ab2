//! The same routes without a listener: for a verb that looks at data which nobody serves.
//!
//! Owns asking a [`Control`] of this process what a client would ask over HTTP, so that both get one answer and one refusal
//! in one form. Refuses nothing by itself: what must not be asked here the client does not ask. No socket is opened; the
//! door's token is made up and known to nobody else.

use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use orch_actors::api::Control;
use tokio::sync::watch;
use tower_service::Service as _;
use warp::filters::BoxedFilter;
use warp::http::{Method, Request, StatusCode, header};
use warp::hyper::body::Body as _;
use warp::reply::Response;

use super::{HttpSettings, Shared, Token, guard::Guard, routes};

/// A front desk of this process.
#[derive(Clone)]
pub struct Inside {
    routes: BoxedFilter<(Response,)>,
    token: Token,
    // Event streams end with their sender.
    _open: Arc<watch::Sender<bool>>,
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inside")
    }
}

impl Inside {
    /// The routes over this desk.
    ///
    /// # Errors
    /// When the system has no randomness for the token.
    pub fn new(control: Arc<dyn Control>) -> Result<Self, String> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
        let token = Token::given(&hex::encode(bytes), "ourselves").map_err(|error| error.to_string())?;
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let settings = HttpSettings::new(nowhere, Vec::new(), token.clone());
        let (open, closing) = watch::channel(false);
        let shared = Shared {
            control,
            guard: Arc::new(Guard::new(nowhere, &[], token.clone())),
            heartbeat: settings.heartbeat,
            work_digest: None,
            closing,
        };
        Ok(Self { routes: routes(Arc::new(shared)), token, _open: Arc::new(open) })
    }

    /// Asks for a path, with a body of JSON (or none): the status and the answer's body.
    ///
    /// # Errors
    /// In words, when the path is none, or the answer breaks off.
    pub async fn ask(&self, method: Method, path: &str, body: String) -> Result<(StatusCode, Vec<u8>), String> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token.secret()))
            .body(body)
            .map_err(|error| format!("`{path}`: {error}"))?;
        let answer = match warp::service(self.routes.clone()).call(request).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        };
        let (head, mut body) = answer.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
            let frame = frame.map_err(|error| format!("`{path}`: the answer broke off: {error}"))?;
            if let Some(data) = frame.data_ref() {
                bytes.extend_from_slice(data);
            }
        }
        Ok((head.status, bytes))
    }
}
