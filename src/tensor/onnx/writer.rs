//! An ONNX graph under construction: nodes, initializers and names.

use super::{
    AttributeProto, DataType, DimensionProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto,
    StringStringEntryProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};
use crate::tensor::pack::pack_int4;
use crate::{Error, Result};
use prost::Message;

/// Operator set: the first with 4-bit integers.
const OPSET: i64 = 21;
const IR_VERSION: i64 = 10;

/// Builds a graph; values are referred to by name.
#[derive(Default)]
pub struct Writer {
    graph: GraphProto,
}

/// An attribute's value.
pub enum Attribute {
    Int(i64),
    Float(f32),
    Ints(Vec<i64>),
    Text(String),
}

impl Writer {
    /// Appends `op` with one output, named `output`, which is returned.
    pub fn node(&mut self, op: &str, inputs: &[&str], output: String, attributes: &[(&str, Attribute)]) -> String {
        let attribute = attributes.iter().map(|(name, value)| match value {
            Attribute::Int(i) => AttributeProto { name: name.to_string(), i: *i, r#type: 2, ..Default::default() },
            Attribute::Float(f) => AttributeProto { name: name.to_string(), f: *f, r#type: 1, ..Default::default() },
            Attribute::Text(text) => {
                AttributeProto { name: name.to_string(), s: text.clone().into_bytes(), r#type: 3, ..Default::default() }
            }
            Attribute::Ints(v) => {
                AttributeProto { name: name.to_string(), ints: v.clone(), r#type: 7, ..Default::default() }
            }
        });
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|s| s.to_string()).collect(),
            output: vec![output.clone()],
            name: output.clone(),
            op_type: op.into(),
            attribute: attribute.collect(),
            ..Default::default()
        });
        output
    }

    fn constant(&mut self, name: String, dims: &[usize], data: DataType, raw_data: Vec<u8>) -> String {
        let dims = dims.iter().map(|&d| d as i64).collect();
        let data_type = data as i32;
        self.graph.initializer.push(TensorProto {
            dims,
            data_type,
            name: name.clone(),
            raw_data,
            ..Default::default()
        });
        name
    }

    /// f32 values; no dimensions make a scalar.
    pub fn floats(&mut self, name: String, dims: &[usize], values: &[f32]) -> String {
        self.constant(name, dims, DataType::Float, values.iter().flat_map(|v| v.to_le_bytes()).collect())
    }

    pub fn int64s(&mut self, name: String, values: &[i64]) -> String {
        let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(name, &[values.len()], DataType::Int64, bytes)
    }

    /// Codes stored as `data`: INT4, INT8 or UINT8, in which they must fit.
    pub fn codes(&mut self, name: String, dims: &[usize], data: DataType, codes: &[i32]) -> Result<String> {
        let unfit = || Error::op("onnx", format!("{name} has a code that does not fit {data:?}"));
        let bytes = match data {
            DataType::Uint8 => codes.iter().map(|q| u8::try_from(*q).ok()).collect::<Option<_>>().ok_or_else(unfit)?,
            _ => {
                let signed: Option<Vec<i8>> = codes.iter().map(|q| i8::try_from(*q).ok()).collect();
                let signed = signed.ok_or_else(unfit)?;
                if data == DataType::Int4 { pack_int4(&signed)? } else { bytemuck::cast_slice(&signed).to_vec() }
            }
        };
        Ok(self.constant(name, dims, data, bytes))
    }

    /// The file: input and output with a free batch dimension, metadata.
    pub fn finish(
        mut self,
        name: &str,
        [input, output]: [(&str, &[usize]); 2],
        metadata: Vec<(&str, String)>,
    ) -> Vec<u8> {
        let value = |(name, sample): (&str, &[usize])| {
            let batch = DimensionProto { dim_value: None, dim_param: Some("batch".into()) };
            let sizes = sample.iter().map(|&d| DimensionProto { dim_value: Some(d as i64), dim_param: None });
            let shape = TensorShapeProto { dim: std::iter::once(batch).chain(sizes).collect() };
            let tensor = TensorTypeProto { elem_type: DataType::Float as i32, shape: Some(shape) };
            ValueInfoProto { name: name.into(), r#type: Some(TypeProto { tensor_type: Some(tensor) }) }
        };
        self.graph.name = name.into();
        self.graph.input.push(value(input));
        self.graph.output.push(value(output));
        let entry = |(key, value): (&str, String)| StringStringEntryProto { key: key.into(), value };
        let model = ModelProto {
            ir_version: IR_VERSION,
            producer_name: "ghostbit".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(self.graph),
            opset_import: vec![OperatorSetIdProto { domain: String::new(), version: OPSET }],
            metadata_props: metadata.into_iter().map(entry).collect(),
        };
        model.encode_to_vec()
    }
}
