//! The footers of the objects of a source, as a store keeps them from one run to the next. A nightly run need not read
//! those of old files again: it lists the objects, and reads what is new or has another ETag.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_schema::{Schema, SchemaRef};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::store::{seal, unseal};

/// The footers of objects by their URLs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Footers {
    /// The schemas of the files, each once.
    schemas: Vec<Schema>,
    files: BTreeMap<PathBuf, Footer>,
}

/// What the footer of an object says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Footer {
    /// The ETag of the object that was read.
    tag: String,
    /// The number of rows.
    rows: u64,
    /// The place of the schema among the schemas.
    schema: usize,
}

impl Footers {
    /// Where a store keeps them.
    pub const OBJECT: &str = "sources/footers.json";

    /// Reads them from what [`Footers::to_json`] gave. Bytes that are something else give none, which costs requests.
    pub fn from_json(bytes: &[u8]) -> Self {
        unseal(bytes).and_then(|object| serde_json::from_slice(&object).ok()).unwrap_or_default()
    }

    /// Renders them as JSON.
    pub fn to_json(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&seal(self)?).into_owned())
    }

    /// The schema and the number of rows of an object, if they are known for this ETag.
    pub fn get(&self, url: &Path, tag: &str) -> Option<(SchemaRef, u64)> {
        let known = self.files.get(url).filter(|known| known.tag == tag)?;
        Some((Arc::new(self.schemas.get(known.schema)?.clone()), known.rows))
    }

    /// Adds what the footer of an object says.
    pub fn add(&mut self, url: &Path, tag: String, (schema, rows): &(SchemaRef, u64)) {
        let known = self.schemas.iter().position(|known| known == schema.as_ref());
        let place = known.unwrap_or_else(|| {
            self.schemas.push(schema.as_ref().clone());
            self.schemas.len() - 1
        });
        self.files.insert(url.to_owned(), Footer { tag, rows: *rows, schema: place });
    }
}

#[cfg(test)]
mod tests {
    use arrow_schema::{DataType, Field};

    use super::*;

    #[test]
    fn a_footer_is_known_for_its_etag() {
        let schema =
            |name: &str| Arc::new(Schema::new(vec![Field::new(name, DataType::Utf8, true)]));
        let mut footers = Footers::default();
        let url = |name: &str| PathBuf::from(format!("s3://data/{name}.parquet"));
        footers.add(&url("a"), "1".into(), &(schema("x"), 7));
        footers.add(&url("b"), "2".into(), &(schema("y"), 8));
        footers.add(&url("c"), "3".into(), &(schema("x"), 9));
        let footers = Footers::from_json(footers.to_json().unwrap().as_bytes());
        assert_eq!(footers.schemas.len(), 2);
        assert_eq!(footers.get(&url("c"), "3"), Some((schema("x"), 9)));
        assert_eq!(footers.get(&url("c"), "1"), None);
        assert_eq!(Footers::from_json(b"{\"files\": 1}"), Footers::default());
    }
}
