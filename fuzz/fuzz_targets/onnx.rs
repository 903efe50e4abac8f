#![no_main]

use ghostbit::device::Device;
use ghostbit::models::onnx::{Imported, Options};
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    // A file of a few bytes may ask for weights that it does not hold; here for few.
    let options = Options { filled: 1 << 16, ..Options::default() };
    if let Ok(found) = Imported::parse_with(data, "fuzz", &options) {
        let shapes = found.graph.shapes(1).expect("what was taken has shapes");
        assert_eq!(shapes.last().expect("nodes")[..], [1, found.graph.classes]);
        found.network(&Device::cpu(), Path::new("fuzz")).expect("and weights that fit");
    }
});
