//! Expiry: the first router that sees an agreement past its last day writes its end to control.
//!
//! Owns the regular check, by the log's time. The fold decides whether an expiry counts, by the record's append time.

use std::time::Duration;

use schemas::agreement::Status;
use schemas::ids::AgreementNumber;
use schemas::time::Millis;

use crate::control::change::Body;
use crate::control::service::Control;
use crate::control::view::ControlView;
use crate::lease::service::Lease;

/// How late an expiry may take effect.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const BY: &str = "expiry";

pub(crate) async fn watch(control: Control, lease: Lease) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    loop {
        looks.tick().await;
        for number in due(&control.view(), lease.log_time()) {
            let reason = "its last day has passed".to_owned();
            let body = Body::AgreementStatus { number: number.clone(), status: Status::Expired, reason };
            if let Err(error) = control.change(BY, body).await {
                // Another router was first, or our clock runs ahead: the next check decides.
                tracing::debug!(agreement = %number, %error, "the expiry does not count yet");
            }
        }
    }
}

/// Agreements whose last day has passed and which have not ended.
fn due(view: &ControlView, now: Millis) -> Vec<AgreementNumber> {
    let has_ended = |status| matches!(status, Status::Revoked | Status::Expired);
    let is_due = |valid_to: jiff::Timestamp| now >= Millis::from(valid_to);
    let entries = view.agreements.values().filter(|entry| !has_ended(entry.status));
    entries
        .filter(|entry| entry.agreement.valid_to.is_some_and(is_due))
        .map(|entry| entry.agreement.number.clone())
        .collect()
}
