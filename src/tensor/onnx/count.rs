//! How many messages a file holds, counted before any of them is allocated.

/// A kind of message: its fields that hold messages.
struct Kind(&'static [(u64, &'static Kind)]);

static LEAF: Kind = Kind(&[]);
static TENSOR: Kind = Kind(&[(13, &LEAF)]);
static ATTRIBUTE: Kind = Kind(&[(5, &TENSOR)]);
static NODE: Kind = Kind(&[(5, &ATTRIBUTE)]);
static SHAPE: Kind = Kind(&[(1, &LEAF)]);
static TENSOR_TYPE: Kind = Kind(&[(2, &SHAPE)]);
static TYPE: Kind = Kind(&[(1, &TENSOR_TYPE)]);
static VALUE: Kind = Kind(&[(2, &TYPE)]);
static GRAPH: Kind = Kind(&[(1, &NODE), (5, &TENSOR), (11, &VALUE), (12, &VALUE)]);
static MODEL: Kind = Kind(&[(7, &GRAPH), (8, &LEAF), (14, &LEAF)]);

/// The messages of a model; `None` if its fields do not fit into `data`.
pub fn messages(data: &[u8]) -> Option<usize> {
    count(data, &MODEL)
}

/// As deep as the kinds go.
fn count(mut data: &[u8], kind: &Kind) -> Option<usize> {
    let mut sum = 1;
    while !data.is_empty() {
        let key = varint(&mut data)?;
        let length = match key & 7 {
            0 => {
                varint(&mut data)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut data)?).ok()?,
            5 => 4,
            // Groups: ONNX has none.
            _ => return None,
        };
        let (field, rest) = data.split_at_checked(length)?;
        data = rest;
        if let Some((_, inner)) = kind.0.iter().find(|(number, _)| key & 7 == 2 && *number == key >> 3) {
            sum += count(field, inner)?;
        }
    }
    Some(sum)
}

fn varint(data: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for i in 0..10 {
        let (&byte, rest) = data.split_first()?;
        *data = rest;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, decode};
    use super::messages;
    use prost::Message;

    #[test]
    fn all_messages_are_counted() {
        let attribute = AttributeProto { t: Some(TensorProto::default()), ..Default::default() };
        let node = NodeProto { attribute: vec![attribute; 3], ..Default::default() };
        let graph = GraphProto { node: vec![node; 2], initializer: vec![TensorProto::default()], ..Default::default() };
        let model = ModelProto { ir_version: 8, graph: Some(graph), ..Default::default() };
        let bytes = model.encode_to_vec();
        assert_eq!(messages(&bytes), Some(1 + 1 + 2 * (1 + 3 * 2) + 1));
        assert_eq!(decode(&bytes), Ok(model));
        assert!((1..bytes.len()).all(|n| decode(&bytes[..n]).is_err() || messages(&bytes[..n]).is_some()));
    }

    #[test]
    fn many_empty_messages_are_refused() {
        let model = ModelProto {
            graph: Some(GraphProto { node: vec![NodeProto::default(); 1 << 18], ..Default::default() }),
            ..Default::default()
        };
        assert!(decode(&model.encode_to_vec()).unwrap_err().contains("at most"));
    }
}
