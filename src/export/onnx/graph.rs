//! Graphs of the ONNX operators that the models need, and their encoding by `onnx-rs`.

use onnx_rs::ast;

/// The versions that graphs are written for: of ONNX's own operators, of its operators for machine learning,
/// and of the file format. ONNX Runtime reads them since version 1.17.
const OPERATORS: i64 = 20;
const ML_OPERATORS: i64 = 3;
const FORMAT: i64 = 9;
const ML: &str = "ai.onnx.ml";

/// The name of a table of numbers in a graph. Except for constants, a table has one row per customer.
pub type Value = String;

/// An attribute of an operator.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// An integer.
    Integer(i64),
    /// A list of integers.
    Integers(Vec<i64>),
    /// A list of texts.
    Texts(Vec<String>),
    /// A one-dimensional tensor of doubles.
    Doubles(Vec<f64>),
}

/// A constant of a graph.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    /// A table of doubles with this many columns, in row-major order.
    Table(usize, Vec<f64>),
    /// A list of integers.
    Integers(Vec<i64>),
    /// A row of truth values, one byte each.
    Booleans(Vec<u8>),
    /// A text. It must not be empty, because `onnx-rs` leaves out empty texts.
    Text(String),
}

/// An application of an operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The name of the operator.
    pub op: &'static str,
    /// The names of its inputs.
    pub inputs: Vec<Value>,
    /// The name of its output.
    pub output: Value,
    /// The attributes of the operator.
    pub attributes: Vec<(&'static str, Attribute)>,
}

#[derive(Debug)]
struct Given {
    name: Value,
    text: bool,
    about: &'static str,
}

/// A graph under construction, in the order of its computation.
#[derive(Debug, Default)]
pub struct Graph {
    given: Vec<Given>,
    outputs: Vec<Value>,
    /// The constants by name.
    pub constants: Vec<(Value, Constant)>,
    /// The nodes in the order of their computation.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// Adds an input column of doubles. The same name always gives the same column.
    pub fn number_input(&mut self, name: &str, about: &'static str) -> Value {
        self.input(name, false, about)
    }

    /// Adds an input column of texts. The same name always gives the same column.
    pub fn text_input(&mut self, name: &str, about: &'static str) -> Value {
        self.input(name, true, about)
    }

    fn input(&mut self, name: &str, text: bool, about: &'static str) -> Value {
        if !self.given.iter().any(|given| given.name == name) {
            self.given.push(Given { name: name.to_owned(), text, about });
        }
        name.to_owned()
    }

    /// The names of the inputs, with a description of each.
    pub fn inputs(&self) -> Vec<(String, String)> {
        let kind = |given: &Given| if given.text { "string" } else { "double" };
        let about = |given: &Given| format!("{}: {}", kind(given), given.about);
        self.given.iter().map(|given| (given.name.clone(), about(given))).collect()
    }

    /// Makes a value an output of the graph under this name.
    pub fn output(&mut self, name: &str, value: &Value) {
        let node = Node {
            op: "Identity",
            inputs: vec![value.clone()],
            output: name.to_owned(),
            attributes: Vec::new(),
        };
        self.nodes.push(node);
        self.outputs.push(name.to_owned());
    }

    fn constant(&mut self, constant: Constant) -> Value {
        // The names of columns have no blank, so that no constant has the name of a column.
        let name = format!("constant {}", self.constants.len());
        self.constants.push((name.clone(), constant));
        name
    }

    /// Adds a constant row.
    pub fn row(&mut self, values: Vec<f64>) -> Value {
        self.table(values.len(), values)
    }

    /// Adds a constant column.
    pub fn column(&mut self, values: Vec<f64>) -> Value {
        self.table(1, values)
    }

    /// Adds a constant table in row-major order.
    pub fn table(&mut self, columns: usize, values: Vec<f64>) -> Value {
        self.constant(Constant::Table(columns, values))
    }

    /// Adds a constant list of integers.
    pub fn integers(&mut self, values: Vec<i64>) -> Value {
        self.constant(Constant::Integers(values))
    }

    /// Adds a constant row of truth values.
    pub fn booleans(&mut self, values: Vec<bool>) -> Value {
        self.constant(Constant::Booleans(values.into_iter().map(u8::from).collect()))
    }

    /// Adds a constant text.
    pub fn text(&mut self, value: &str) -> Value {
        self.constant(Constant::Text(value.to_owned()))
    }

    /// Applies an operator.
    pub fn add(&mut self, op: &'static str, inputs: &[&Value]) -> Value {
        self.add_with(op, inputs, Vec::new())
    }

    /// Applies an operator with attributes.
    pub fn add_with(
        &mut self,
        op: &'static str,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute)>,
    ) -> Value {
        let output = format!("{op} {}", self.nodes.len());
        let inputs = inputs.iter().map(|input| (*input).clone()).collect();
        self.nodes.push(Node { op, inputs, output: output.clone(), attributes });
        output
    }

    /// Multiplies a value by a number.
    pub fn by(&mut self, value: &Value, factor: f64) -> Value {
        let factor = self.row(vec![factor]);
        self.add("Mul", &[value, &factor])
    }

    /// Adds a number to a value.
    pub fn plus(&mut self, value: &Value, addend: f64) -> Value {
        let addend = self.row(vec![addend]);
        self.add("Add", &[value, &addend])
    }

    /// Converts truth values or floats to doubles.
    pub fn doubles(&mut self, value: &Value) -> Value {
        let double = Attribute::Integer(ast::DataType::Double as i64);
        self.add_with("Cast", &[value], vec![("to", double)])
    }

    /// Selects some columns of a table, in this order.
    pub fn pick(&mut self, table: &Value, columns: &[usize]) -> Value {
        let columns = self.integers(columns.iter().map(|column| *column as i64).collect());
        self.add_with("Gather", &[table, &columns], vec![("axis", Attribute::Integer(1))])
    }

    /// Concatenates the columns of tables. Returns None if there are no tables.
    pub fn beside(&mut self, tables: Vec<Value>) -> Option<Value> {
        if tables.len() < 2 {
            return tables.into_iter().next();
        }
        let tables: Vec<&Value> = tables.iter().collect();
        Some(self.add_with("Concat", &tables, vec![("axis", Attribute::Integer(1))]))
    }

    /// Encodes the graph as the bytes of an ONNX file.
    pub fn encode(&self, name: &str, about: &str, facts: &[(&str, String)]) -> Vec<u8> {
        let graph = ast::Graph {
            name,
            node: self.nodes.iter().map(node).collect(),
            initializer: self.constants.iter().map(|(name, value)| tensor(name, value)).collect(),
            input: self.given.iter().map(|g| column(&g.name, g.text, g.about)).collect(),
            output: self.outputs.iter().map(|name| column(name, false, "")).collect(),
            ..Default::default()
        };
        let operators = |domain, version| ast::OperatorSetId { domain, version };
        let facts = facts.iter().map(|(key, value)| ast::StringStringEntry { key, value });
        onnx_rs::encode(&ast::Model {
            ir_version: FORMAT,
            opset_import: vec![operators("", OPERATORS), operators(ML, ML_OPERATORS)],
            producer_name: env!("CARGO_PKG_NAME"),
            producer_version: env!("CARGO_PKG_VERSION"),
            doc_string: about,
            graph: Some(graph),
            metadata_props: facts.collect(),
            ..Default::default()
        })
    }
}

fn node(node: &Node) -> ast::Node<'_> {
    let domain = match node.op {
        "OneHotEncoder" | "TreeEnsembleRegressor" => ML,
        _ => "",
    };
    ast::Node {
        name: &node.output,
        op_type: ast::OpType::from(node.op),
        domain,
        input: node.inputs.iter().map(String::as_str).collect(),
        output: vec![&node.output],
        attribute: node.attributes.iter().map(|(name, value)| attribute(name, value)).collect(),
        ..Default::default()
    }
}

fn attribute<'a>(name: &'a str, value: &'a Attribute) -> ast::Attribute<'a> {
    let mut attribute = ast::Attribute { name, ..Default::default() };
    match value {
        Attribute::Integer(value) => {
            (attribute.r#type, attribute.i) = (ast::AttributeType::Int, *value);
        }
        Attribute::Integers(values) => {
            (attribute.r#type, attribute.ints) = (ast::AttributeType::Ints, values.clone());
        }
        Attribute::Texts(values) => {
            attribute.r#type = ast::AttributeType::Strings;
            attribute.strings = values.iter().map(String::as_bytes).collect();
        }
        Attribute::Doubles(values) => {
            attribute.r#type = ast::AttributeType::Tensor;
            let shape = vec![values.len() as i64];
            attribute.t = Some(ast::TensorProto::from_f64("", shape, values.clone()));
        }
    }
    attribute
}

fn tensor<'a>(name: &'a str, constant: &'a Constant) -> ast::TensorProto<'a> {
    match constant {
        Constant::Table(columns, values) => {
            let rows = values.len() / (*columns).max(1);
            let shape = vec![rows as i64, *columns as i64];
            ast::TensorProto::from_f64(name, shape, values.clone())
        }
        Constant::Integers(values) => {
            ast::TensorProto::from_i64(name, vec![values.len() as i64], values.clone())
        }
        Constant::Booleans(values) => {
            let shape = vec![1, values.len() as i64];
            ast::TensorProto::from_raw(name, shape, ast::DataType::Bool, values)
        }
        Constant::Text(value) => {
            ast::TensorProto::from_strings(name, vec![1, 1], vec![value.as_bytes()])
        }
    }
}

/// Describes a column with one row per customer.
fn column<'a>(name: &'a str, text: bool, about: &'a str) -> ast::ValueInfo<'a> {
    let dimension = |value| ast::TensorShapeDimension { value, denotation: "" };
    let dimensions = [ast::Dimension::Param("N"), ast::Dimension::Value(1)].map(dimension);
    let shape = ast::TensorShape { dim: dimensions.to_vec() };
    let elem_type = if text { ast::DataType::String } else { ast::DataType::Double };
    let tensor = ast::TensorTypeProto { elem_type, shape: Some(shape) };
    let ty = ast::TypeProto { value: Some(ast::TypeValue::Tensor(tensor)), denotation: "" };
    ast::ValueInfo { name, r#type: Some(ty), doc_string: about, ..Default::default() }
}
