//! An event's position in a trace: W3C trace context, version 00, as it travels with the event.
//!
//! Owns its text (`traceparent`) and its 24 bytes. Only sampled contexts travel: an event that is not sampled has
//! none. Never part of a digest, of a decision or of a replica.

use std::fmt;

/// The trace of a sampled event and the span that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

impl TraceContext {
    pub const BYTES: usize = 24;

    /// `None` where an id is all zeros: W3C calls it invalid.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8]) -> Option<Self> {
        (trace_id != [0; 16] && span_id != [0; 8]).then_some(Self { trace_id, span_id })
    }

    /// Reads a `traceparent`. `None` when it is malformed or not sampled: a bad trace refuses nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = parts.next()?;
        let trace_id = parts.next()?;
        let span_id = parts.next()?;
        let flags = parts.next()?;
        let is_known = version == "00" && parts.next().is_none();
        // A later version may say more, but begins as ours.
        let is_later = version != "00" && version != "ff" && bytes::<1>(version).is_some();
        let is_sampled = bytes::<1>(flags)?.first().is_some_and(|flags| flags & 1 == 1);
        if !(is_known || is_later) || !is_sampled {
            return None;
        }
        Self::new(bytes(trace_id)?, bytes(span_id)?)
    }

    /// Trace id, then span id.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let (trace_id, span_id) = bytes.split_at_mut(16);
        trace_id.copy_from_slice(&self.trace_id);
        span_id.copy_from_slice(&self.span_id);
        bytes
    }

    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Option<Self> {
        let mut trace_id = [0; 16];
        let mut span_id = [0; 8];
        trace_id.copy_from_slice(bytes.get(..16)?);
        span_id.copy_from_slice(bytes.get(16..)?);
        Self::new(trace_id, span_id)
    }

    pub const fn trace_id(&self) -> [u8; 16] {
        self.trace_id
    }

    /// The span that made the event.
    pub const fn span_id(&self) -> [u8; 8] {
        self.span_id
    }
}

/// Lower-case hex of exactly so many bytes.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let is_lower = text.bytes().all(|letter| !letter.is_ascii_uppercase());
    (is_lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(bytes)
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-01", hex::encode(self.trace_id), hex::encode(self.span_id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn a_sampled_context_comes_back_from_text_and_bytes() {
        let text = format!("00-{TRACE}-{SPAN}-01");
        let context = TraceContext::parse(&text);
        assert_eq!(context.map(|context| context.to_string()), Some(text));
        assert_eq!(context.and_then(|context| TraceContext::from_bytes(context.to_bytes())), context);
        assert_eq!(TraceContext::parse(&format!("01-{TRACE}-{SPAN}-03-more")), context);
    }

    #[test]
    fn what_is_malformed_or_not_sampled_is_no_context() {
        let upper = TRACE.to_uppercase();
        let zeros = "0".repeat(32);
        for wrong in [
            String::new(),
            format!("00-{TRACE}-{SPAN}-00"),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{upper}-{SPAN}-01"),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{TRACE}0-{SPAN}-01"),
        ] {
            assert_eq!(TraceContext::parse(&wrong), None, "{wrong:?}");
        }
    }
}
