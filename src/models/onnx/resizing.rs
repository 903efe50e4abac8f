//! Resize, and Upsample of older operator sets.

use super::attributes::Attributes;
use super::build::{Build, Flow};
use super::emit::{self, Resizing};
use super::host::{Host, Size, Values, axis};
use super::layout::Layout;
use super::placing::map_axes;
use super::{MAX_SIZE, Outcome};
use crate::tensor::onnx::NodeProto;

impl Build<'_> {
    pub(super) fn resize(&mut self, node: &NodeProto) -> Outcome<Flow> {
        let attributes = Attributes(node);
        let upsample = node.op_type == "Upsample";
        let x = self.flow(node, 0)?;
        let axes = map_axes(&x.layout).ok_or_else(|| {
            format!("its input {} is no map of images (batch, channels, height, width)", x.layout.shape())
        })?;
        let linear = match &*attributes.text("mode", "nearest") {
            "nearest" => false,
            "linear" | "bilinear" => true,
            mode => return Err(format!("mode = {mode} is not supported: nearest and linear are")),
        };
        let defaults =
            if upsample || self.opset < 11 { ["asymmetric", "floor"] } else { ["half_pixel", "round_prefer_floor"] };
        let coordinates = attributes.text("coordinate_transformation_mode", defaults[0]).into_owned();
        let nearest = attributes.text("nearest_mode", defaults[1]).into_owned();
        let known = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"];
        if !known.contains(&&coordinates[..]) {
            return Err(format!("coordinate_transformation_mode = {coordinates} is not supported"));
        }
        if !["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"].contains(&&nearest[..]) {
            return Err(format!("nearest_mode = {nearest} is not supported"));
        }
        attributes.only("antialias", 0)?;
        attributes.only("exclude_outside", 0)?;
        if attributes.text("keep_aspect_ratio_policy", "stretch") != "stretch" {
            return Err("keep_aspect_ratio_policy is not supported".into());
        }
        // Scales or sizes, of all dimensions or of those in `axes`.
        let (scales_at, sizes_at) = if upsample || self.opset < 11 { (1, usize::MAX) } else { (2, 3) };
        let of = |rank: usize, i: usize| -> Outcome<usize> {
            match attributes.ints("axes") {
                Some(list) => axis(*list.get(i).ok_or("has more numbers than axes")?, rank),
                None if i < rank => Ok(i),
                None => Err("has more numbers than dimensions".into()),
            }
        };
        let own = x.layout.sizes();
        let mut scale = [1.0f32; 4];
        let mut size: Vec<i64> = own.iter().map(|s| if let Size::Fixed(v) = s { *v } else { 1 }).collect();
        let given = size.clone();
        let present = |i: usize| self.has(node, i) && self.dims(node, i).is_ok_and(|d| d != [0]);
        if sizes_at != usize::MAX && present(sizes_at) {
            for (i, wanted) in self.host(node, sizes_at)?.sizes()?.into_iter().enumerate() {
                let at = of(4, i)?;
                let same =
                    wanted == own[at] || matches!((wanted, self.batch), (Size::Fixed(v), Some(b)) if at == 0 && v == b);
                if same {
                    continue;
                }
                size[at] = wanted.number()?;
                scale[at] = size[at] as f32 / given[at] as f32;
            }
        } else {
            let scales = match attributes.get("scales") {
                Some(a) => a.floats.clone(),
                None if present(scales_at) => all_floats(&*self.host(node, scales_at)?)?,
                None => return Err("has neither scales nor sizes".into()),
            };
            for (i, s) in scales.into_iter().enumerate() {
                let at = of(4, i)?;
                if !(s.is_finite() && s > 0.0) {
                    return Err(format!("scales by {s}"));
                }
                (scale[at], size[at]) = (s, (given[at] as f32 * s).floor() as i64);
            }
        }
        if scale[0] != 1.0 || scale[axes.channel] != 1.0 {
            return Err("resizes other dimensions than height and width".into());
        }
        let pick = axes.spatial.map(|a| usize::try_from(size[a]).ok().filter(|s| (1..=MAX_SIZE).contains(s)));
        let [Some(h), Some(w)] = pick else { return Err(format!("resizes to {size:?}")) };
        let first = axes.channel == 1;
        let turned = Flow { layout: if first { x.layout } else { x.layout.transposed(&[0, 3, 1, 2]) }, ..x };
        let (id, [from_h, from_w, c]) = self.as_map(node, turned)?;
        let layout = if first { Layout::channels_first([h, w, c]) } else { Layout::channels_last([h, w, c]) };
        if [from_h, from_w] == [h, w] {
            return Ok(Flow { shared: true, ..Flow::new(id, layout) });
        }
        let scale = axes.spatial.map(|a| scale[a]);
        let id =
            self.push(node, "", emit::resize(Resizing { size: [h, w], scale, linear, coordinates, nearest })?, &[id])?;
        Ok(Flow::new(id, layout))
    }
}

fn all_floats(t: &Host) -> Outcome<Vec<f32>> {
    let n = t.elements()?;
    match &t.values {
        Values::Floats(v) if v.len() == n => Ok(v.clone()),
        Values::Floats(v) if n <= 4 && v.len() == 1 => Ok(vec![v[0]; n]),
        _ => Err("its scales are no floats".into()),
    }
}
