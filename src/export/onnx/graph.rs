//! Graphs of ONNX operators, as far as models here need them, and their bytes by `onnx-rs`.

use onnx_rs::ast;

/// The version of ONNX's own operators that graphs are written for, that of its operators for machine
/// learning, and that of the format; ONNX Runtime reads them since 1.17.
const OPERATORS: i64 = 20;
const ML_OPERATORS: i64 = 3;
const FORMAT: i64 = 9;
const ML: &str = "ai.onnx.ml";

/// The name of a table of numbers in a graph; one row a customer, but for constants.
pub type Value = String;

/// A setting of an operator.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// One integer.
    Integer(i64),
    /// Integers.
    Integers(Vec<i64>),
    /// Texts.
    Texts(Vec<String>),
    /// A tensor of doubles of one dimension.
    Doubles(Vec<f64>),
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Constant {
    /// Doubles of this many columns, row after row.
    Table(usize, Vec<f64>),
    /// A list of integers.
    Integers(Vec<i64>),
    /// One row of truth values, a byte each.
    Booleans(Vec<u8>),
    /// One text, which must not be empty: `onnx-rs` leaves out empty ones.
    Text(String),
}

/// An operator applied.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The operator's name.
    pub op: &'static str,
    /// What it is given.
    pub inputs: Vec<Value>,
    /// What it makes.
    pub output: Value,
    /// Its settings.
    pub attributes: Vec<(&'static str, Attribute)>,
}

#[derive(Debug)]
struct Given {
    name: Value,
    text: bool,
    about: &'static str,
}

/// A graph that is being built, in the order in which it will be computed.
#[derive(Debug, Default)]
pub struct Graph {
    given: Vec<Given>,
    outputs: Vec<Value>,
    /// Constants by name.
    pub constants: Vec<(Value, Constant)>,
    /// Operators.
    pub nodes: Vec<Node>,
}

impl Graph {
    /// A column of doubles that is given; asked for twice, it is one.
    pub fn number_input(&mut self, name: &str, about: &'static str) -> Value {
        self.input(name, false, about)
    }

    /// A column of texts that is given.
    pub fn text_input(&mut self, name: &str, about: &'static str) -> Value {
        self.input(name, true, about)
    }

    fn input(&mut self, name: &str, text: bool, about: &'static str) -> Value {
        if !self.given.iter().any(|given| given.name == name) {
            self.given.push(Given { name: name.to_owned(), text, about });
        }
        name.to_owned()
    }

    /// What must be given, and what each is.
    pub fn inputs(&self) -> Vec<(String, String)> {
        let kind = |given: &Given| if given.text { "string" } else { "double" };
        let about = |given: &Given| format!("{}: {}", kind(given), given.about);
        self.given.iter().map(|given| (given.name.clone(), about(given))).collect()
    }

    /// Makes a value known by a name outside.
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
        // Names of columns have no blank, so none of these is one of them.
        let name = format!("constant {}", self.constants.len());
        self.constants.push((name.clone(), constant));
        name
    }

    /// A constant row.
    pub fn row(&mut self, values: Vec<f64>) -> Value {
        self.table(values.len(), values)
    }

    /// A constant column.
    pub fn column(&mut self, values: Vec<f64>) -> Value {
        self.table(1, values)
    }

    /// A constant table, row after row.
    pub fn table(&mut self, columns: usize, values: Vec<f64>) -> Value {
        self.constant(Constant::Table(columns, values))
    }

    /// A constant list of integers.
    pub fn integers(&mut self, values: Vec<i64>) -> Value {
        self.constant(Constant::Integers(values))
    }

    /// A constant row of truth values.
    pub fn booleans(&mut self, values: Vec<bool>) -> Value {
        self.constant(Constant::Booleans(values.into_iter().map(u8::from).collect()))
    }

    /// A constant text.
    pub fn text(&mut self, value: &str) -> Value {
        self.constant(Constant::Text(value.to_owned()))
    }

    /// Applies an operator.
    pub fn add(&mut self, op: &'static str, inputs: &[&Value]) -> Value {
        self.add_with(op, inputs, Vec::new())
    }

    /// Applies an operator with settings.
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

    /// A value times a number.
    pub fn by(&mut self, value: &Value, factor: f64) -> Value {
        let factor = self.row(vec![factor]);
        self.add("Mul", &[value, &factor])
    }

    /// A value plus a number.
    pub fn plus(&mut self, value: &Value, addend: f64) -> Value {
        let addend = self.row(vec![addend]);
        self.add("Add", &[value, &addend])
    }

    /// Flags or floats as doubles.
    pub fn doubles(&mut self, value: &Value) -> Value {
        let double = Attribute::Integer(ast::DataType::Double as i64);
        self.add_with("Cast", &[value], vec![("to", double)])
    }

    /// Some columns of a table, in this order.
    pub fn pick(&mut self, table: &Value, columns: &[usize]) -> Value {
        let columns = self.integers(columns.iter().map(|column| *column as i64).collect());
        self.add_with("Gather", &[table, &columns], vec![("axis", Attribute::Integer(1))])
    }

    /// Tables side by side; None of none.
    pub fn beside(&mut self, tables: Vec<Value>) -> Option<Value> {
        if tables.len() < 2 {
            return tables.into_iter().next();
        }
        let tables: Vec<&Value> = tables.iter().collect();
        Some(self.add_with("Concat", &tables, vec![("axis", Attribute::Integer(1))]))
    }

    /// The bytes of an ONNX file.
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

/// A column of as many rows as there are customers.
fn column<'a>(name: &'a str, text: bool, about: &'a str) -> ast::ValueInfo<'a> {
    let dimension = |value| ast::TensorShapeDimension { value, denotation: "" };
    let dimensions = [ast::Dimension::Param("N"), ast::Dimension::Value(1)].map(dimension);
    let shape = ast::TensorShape { dim: dimensions.to_vec() };
    let elem_type = if text { ast::DataType::String } else { ast::DataType::Double };
    let tensor = ast::TensorTypeProto { elem_type, shape: Some(shape) };
    let ty = ast::TypeProto { value: Some(ast::TypeValue::Tensor(tensor)), denotation: "" };
    ast::ValueInfo { name, r#type: Some(ty), doc_string: about, ..Default::default() }
}
