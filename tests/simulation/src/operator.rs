//! The operator: amends and revokes agreements through the routers' own admin routes.
//!
//! Owns the repeated requests. Reports a revocation to the oracle in the moment that its acknowledgement arrives.

use std::sync::Arc;
use std::time::Duration;

use platform::client::{Client, send_json};
use platform::identity::Identity;
use platform::retry::Retry;
use schemas::ids::AgreementNumber;
use schemas::promise::Promise;
use schemas::publish::AgreementStatus;
use serde_json::{Value as Json, json};
use tokio::time::sleep;

use crate::oracle::Oracle;

/// How long a router may take to answer.
const LIMIT: Duration = Duration::from_secs(60);

/// A request of the operator.
pub enum Deed {
    /// This agreement, in a new version.
    Amend(Json),
    Revoke(AgreementNumber),
}

/// Repeats a request until it is done.
pub async fn act(deed: Deed, identity: Identity, oracle: Arc<Oracle>) {
    let client = match Client::new("https://dit", &identity) {
        Ok(client) => client,
        Err(error) => return oracle.broken(Promise::Revocation, error.to_string()),
    };
    let mut retry = Retry::default();
    loop {
        let answer = match &deed {
            Deed::Amend(body) => {
                send_json::<Json>(client.put("/v1/agreements").timeout(LIMIT).json(body)).await.map(drop)
            }
            Deed::Revoke(number) => {
                let path = format!("/v1/agreements/{number}/status");
                let body = json!({"status": "revoked", "reason": "the purpose has ended"});
                send_json::<AgreementStatus>(client.post(&path).timeout(LIMIT).json(&body)).await.map(drop)
            }
        };
        match (answer, &deed) {
            (Ok(()), Deed::Revoke(number)) => {
                oracle.revoked(number.as_str());
                return oracle.note(|| format!("{number} is revoked"));
            }
            (Ok(()), Deed::Amend(_)) => return oracle.note(|| "the agreement is amended".to_owned()),
            (Err(error), _) if error.is_retryable() => sleep(retry.next_wait()).await,
            (Err(error), _) => return oracle.broken(Promise::Revocation, format!("the operator: {error}")),
        }
    }
}
