#![no_main]

use ghostbit::data::npy::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(array) = parse(data, "x") {
        assert_eq!(array.shape.iter().product::<usize>(), array.values.len());
    }
});
