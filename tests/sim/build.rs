//! The simulator answers some calls of the C library itself (`src/taps.rs`). Crates that look one up by name at run time find
//! it only if the linker exports it.

fn main() {
    for name in ["getrandom", "getentropy", "clock_gettime", "syscall"] {
        println!("cargo:rustc-link-arg-bin=sim=-Wl,--export-dynamic-symbol={name}");
    }
}
