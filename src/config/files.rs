//! The kinds of files that a project has, each with the JSON Schema of what it may say.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Value, json};

use super::settings::Settings;
use crate::features::spec::ViewSpec;
use crate::segments::SegmentsSpec;
use crate::spec::{AffinitySpec, ClassifierSpec, EngagementSpec, LifetimeValueSpec, RfmSpec};

/// A kind of file of a project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    /// `c360.toml`.
    Project,
    /// A feature view.
    View,
    /// The spec of a classifier.
    Classifier,
    /// The spec of the engagement score.
    Engagement,
    /// The spec of the RFM scores.
    Rfm,
    /// The spec of lifetime value.
    LifetimeValue,
    /// The spec of affinity.
    Affinity,
    /// The segment rules.
    Segments,
}

impl FileKind {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Project,
        Self::View,
        Self::Classifier,
        Self::Engagement,
        Self::Rfm,
        Self::LifetimeValue,
        Self::Affinity,
        Self::Segments,
    ];

    /// The name of the kind. For models it is the value of `kind` in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::View => "view",
            Self::Classifier => "classifier",
            Self::Engagement => "engagement",
            Self::Rfm => "rfm",
            Self::LifetimeValue => "lifetime_value",
            Self::Affinity => "affinity",
            Self::Segments => "segments",
        }
    }

    /// The kind with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Where the files of this kind are in a project.
    pub const fn place(self) -> &'static str {
        match self {
            Self::Project => "c360.toml",
            Self::View => "features/*.toml",
            Self::Segments => "models/segments.toml",
            _ => "models/*.toml",
        }
    }

    /// Whether files of this kind are specs of models, which say so by `kind`.
    pub const fn is_model(self) -> bool {
        !matches!(self, Self::Project | Self::View | Self::Segments)
    }

    /// The JSON Schema, draft 7, of a file of this kind.
    pub fn schema(self) -> Value {
        let schema = match self {
            Self::Project => schema_of::<Settings>(),
            Self::View => schema_of::<ViewSpec>(),
            Self::Classifier => schema_of::<ClassifierSpec>(),
            Self::Engagement => schema_of::<EngagementSpec>(),
            Self::Rfm => schema_of::<RfmSpec>(),
            Self::LifetimeValue => schema_of::<LifetimeValueSpec>(),
            Self::Affinity => schema_of::<AffinitySpec>(),
            Self::Segments => schema_of::<SegmentsSpec>(),
        };
        let mut schema = schema.to_value();
        schema["title"] = json!(format!("{} ({})", self.name(), self.place()));
        if self.is_model() {
            schema["properties"]["kind"] = json!({ "type": "string", "enum": [self.name()], "description": "The kind of the model." });
            if let Some(required) = schema["required"].as_array_mut() {
                required.insert(0, json!("kind"));
            }
        }
        schema
    }
}

fn schema_of<T: JsonSchema>() -> Schema {
    SchemaSettings::draft07().into_generator().into_root_schema_for::<T>()
}

/// Follows references, and drops the null of an optional setting.
pub(super) fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(path) = schema["$ref"].as_str() {
        let target = root.pointer(path.trim_start_matches('#'));
        return resolved(root, target.unwrap_or(&Value::Null));
    }
    for key in ["allOf", "anyOf"] {
        let Some(options) = schema[key].as_array() else { continue };
        let mut options = options.iter().filter(|option| option["type"] != "null");
        if let (Some(only), None) = (options.next(), options.next()) {
            return resolved(root, only);
        }
    }
    schema
}
