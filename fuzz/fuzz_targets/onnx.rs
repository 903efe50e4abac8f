#![no_main]

use ghostbit::device::Device;
use ghostbit::models::onnx::Imported;
use libfuzzer_sys::fuzz_target;
use std::path::Path;

fuzz_target!(|data: &[u8]| {
    if let Ok(found) = Imported::parse(data, "fuzz") {
        let shapes = found.graph.shapes(1).expect("what was taken has shapes");
        assert_eq!(shapes.last().expect("nodes")[..], [1, found.graph.classes]);
        found.network(&Device::cpu(), Path::new("fuzz")).expect("and weights that fit");
    }
});
