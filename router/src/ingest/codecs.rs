//! The codecs of batches' schemas, parsed once: an agent's batches all have the same schema.
//!
//! Owns a small cache. A schema in it need not be registered or permitted.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use schemas::avro::schema::SchemaError;
use schemas::change::ChangeCodec;

/// Schemas that are kept: more than a router has channels. Beyond this, all are forgotten and parsed again.
const KEPT: usize = 1_024;
/// A longer text is parsed each time: peers choose it, and the cache is bounded in bytes too.
const LONGEST: usize = 64 * 1024;

/// The cache; clones share it.
#[derive(Debug, Clone, Default)]
pub struct BatchCodecs(Arc<RwLock<HashMap<String, Arc<ChangeCodec>>>>);

impl BatchCodecs {
    /// The codec of a batch's schema, as its header has it.
    pub fn of(&self, text: &str) -> Result<Arc<ChangeCodec>, SchemaError> {
        if let Some(codec) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(text) {
            return Ok(Arc::clone(codec));
        }
        let codec = Arc::new(ChangeCodec::from_batch_schema(text)?);
        if text.len() <= LONGEST {
            let mut known = self.0.write().unwrap_or_else(PoisonError::into_inner);
            if known.len() >= KEPT {
                known.clear();
            }
            known.insert(text.to_owned(), Arc::clone(&codec));
        }
        Ok(codec)
    }
}

#[cfg(test)]
mod tests {
    use schemas::avro::schema::AvroSchema;

    use super::*;

    fn text(number: usize) -> String {
        let subject =
            format!(r#"{{"type":"record","name":"r{number}","fields":[{{"name":"a","type":"string"}}]}}"#);
        ChangeCodec::new(&AvroSchema::parse(&subject).unwrap()).unwrap().batch_schema().text().to_owned()
    }

    #[test]
    fn a_schema_is_parsed_once_and_what_is_wrong_stays_wrong() {
        let codecs = BatchCodecs::default();
        let first = codecs.of(&text(0)).unwrap();
        assert!(Arc::ptr_eq(&first, &codecs.of(&text(0)).unwrap()));
        assert!(!Arc::ptr_eq(&first, &codecs.of(&text(1)).unwrap()));
        for _ in 0..2 {
            assert!(codecs.of("[\"null\",\"string\"]").is_err());
        }
        for number in 2..=KEPT + 1 {
            codecs.of(&text(number)).unwrap();
        }
        assert!(codecs.0.read().unwrap().len() <= KEPT);
    }
}
