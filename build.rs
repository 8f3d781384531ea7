//! Has the linker lay those functions side by side that run together (`docs/adr/0017-order-of-functions.md`).

use std::path::PathBuf;

fn main() {
    let order = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("link/order.ld");
    println!("cargo::rerun-if-changed={}", order.display());
    println!("cargo::rustc-link-arg-bin=jobcage=-Wl,-T,{}", order.display());
}
