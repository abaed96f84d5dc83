//! Asking for memory before it is needed.
//!
//! A graph search knows which rows it will read some hundred nanoseconds before it reads them; without a hint
//! the processor waits for each. A prefetch is only a hint: it changes no value and cannot fault.

/// Bytes per cache line on the processors we run on.
const LINE: usize = 64;

/// Asks for the first `lines` cache lines of `values` (fewer if it is shorter).
#[inline(always)]
pub fn prefetch<T>(values: &[T], lines: usize) {
    let bytes = size_of_val(values).min(lines * LINE);
    let start = values.as_ptr().cast::<u8>();
    let mut offset = 0;
    while offset < bytes {
        line(start.wrapping_add(offset));
        offset += LINE;
    }
}

#[inline(always)]
#[cfg(target_arch = "x86_64")]
fn line(address: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: SSE is part of x86_64, and a prefetch never faults whatever the address is.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast::<i8>()) }
}

#[inline(always)]
#[cfg(target_arch = "aarch64")]
fn line(address: *const u8) {
    // SAFETY: PRFM is part of the base instruction set, touches no register but its operand, and never faults.
    unsafe {
        std::arch::asm!("prfm pldl1keep, [{0}]", in(reg) address, options(nostack, preserves_flags, readonly))
    }
}

#[inline(always)]
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn line(_address: *const u8) {}

#[cfg(test)]
mod tests {
    use super::prefetch;

    #[test]
    fn any_slice_will_do() {
        prefetch::<f32>(&[], 4);
        prefetch(&[1.0f32; 3], 100);
        prefetch(&[1u64; 300], 0);
        prefetch(&[0u8; 65], 2);
    }
}
