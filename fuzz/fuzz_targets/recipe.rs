#![no_main]

use ghostbit::methods::Recipe;
use libfuzzer_sys::fuzz_target;

// Lines before the first empty one are `--set` assignments onto the recipe best; all of it is also read as TOML.
fuzz_target!(|text: &str| {
    if let Ok(recipe) = Recipe::parse(text, "fuzz") {
        let _ = recipe.validate();
        assert_eq!(Recipe::parse(&recipe.to_toml(), "fuzz").expect("what was written can be read").to_toml(), recipe.to_toml());
    }
    let mut recipe = Recipe::load("best").expect("the embedded recipe");
    for line in text.lines().take_while(|l| !l.is_empty()) {
        let _ = recipe.set(line);
    }
    let _ = recipe.validate();
});
