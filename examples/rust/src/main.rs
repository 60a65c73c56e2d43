//! Asks ratelimitd whether somebody may do something now, once for each argument:
//!
//!     ratelimitd serve &
//!     cargo run -- user:42 user:42
//!
//! RATELIMITD_ADDR is where the daemon serves, and RATE is the limit.

use std::env;
use std::time::Duration;

use api::google::rpc::{BadRequest, Status as Detailed};
use api::ratelimit::v1::rate_limit_service_client::RateLimitServiceClient;
use api::ratelimit::v1::{Limit, ShouldAllowRequest, ShouldAllowResponse};
use prost::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

#[allow(dead_code)] // it has more than this program needs
mod api {
    include!(concat!(env!("OUT_DIR"), "/api.rs"));
}

/// Whether callers keep to a limit. Clones share its connection.
#[derive(Clone)]
struct Limiter {
    daemon: RateLimitServiceClient<Channel>,
    rate: String,
}

impl Limiter {
    /// It connects when it is first asked, and again after the connection is lost.
    fn new(addr: &str, rate: &str) -> Result<Self, tonic::transport::Error> {
        let channel = Endpoint::from_shared(format!("http://{addr}"))?
            .connect_timeout(Duration::from_secs(2))
            .http2_keep_alive_interval(Duration::from_secs(15))
            .keep_alive_timeout(Duration::from_secs(2))
            .keep_alive_while_idle(true)
            .connect_lazy();
        Ok(Self { daemon: RateLimitServiceClient::new(channel), rate: rate.to_string() })
    }

    async fn allow(&self, identifier: &str) -> Result<ShouldAllowResponse, Status> {
        let mut request = Request::new(ShouldAllowRequest {
            namespace: "example".to_string(),
            identifier: identifier.to_string(),
            limits: vec![Limit { rate: self.rate.clone(), ..Default::default() }],
            ..Default::default()
        });
        request.set_timeout(Duration::from_millis(75)); // the daemon sees it too
        Ok(self.daemon.clone().should_allow(request).await?.into_inner())
    }
}

/// Returns which fields of a request are wrong, if an error says so.
fn violations(error: &Status) -> Vec<String> {
    let details = Detailed::decode(error.details()).unwrap_or_default().details;
    let wrong = details.iter().filter_map(|detail| detail.to_msg::<BadRequest>().ok());
    wrong.flat_map(|it| it.field_violations).map(|it| format!("{}: {}", it.field, it.description)).collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr = env::var("RATELIMITD_ADDR").unwrap_or("localhost:8081".to_string());
    let rate = env::var("RATE").unwrap_or("1/min".to_string());
    let limiter = Limiter::new(&addr, &rate)?;
    for identifier in env::args().skip(1) {
        match limiter.allow(&identifier).await {
            Ok(response) if response.allowed => println!("{identifier}: allowed"),
            Ok(response) => {
                let wait = response.retry_after.map(|it| Duration::try_from(it)).transpose()?;
                println!("{identifier}: denied, come back in {wait:?}");
            }
            // What the failure policy says: here, an outage of the limiter is none of ours.
            Err(error) => println!("{identifier}: allowed without an answer: {:?} {:?}", error.code(), violations(&error)),
        }
    }
    Ok(())
}
