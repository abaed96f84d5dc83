//! Time and randomness of the whole process: the calls of the C library that give them, answered here.
//!
//! Libraries ask the system for both, each in its own way, and no seed reaches them otherwise. Once [`enter`] was called, all
//! randomness comes from one generator, and both clocks stand still until [`set_time`] moves them. Before, and on other
//! targets than Linux, the system answers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Where simulated time begins, in seconds of the monotonic and of the wall clock.
const MONOTONIC_BASE: u64 = 1_000_000;
const WALL_BASE: u64 = 1_790_000_000;

static IS_ON: AtomicBool = AtomicBool::new(false);
static NANOS: AtomicU64 = AtomicU64::new(0);
/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
static STATE: AtomicU64 = AtomicU64::new(0);
static DRAWN: AtomicU64 = AtomicU64::new(0);

/// From now on time and randomness are simulated.
pub fn enter(seed: u64) {
    STATE.store(seed ^ 0x5eed_f107_111a_0001, Ordering::SeqCst);
    IS_ON.store(true, Ordering::SeqCst);
}

/// Moves the clocks to so long after the beginning.
pub fn set_time(elapsed: Duration) {
    NANOS.store(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
}

/// How many numbers were drawn: two runs that draw differently are not the same run.
pub fn drawn() -> u64 {
    DRAWN.load(Ordering::SeqCst)
}

fn next() -> u64 {
    DRAWN.fetch_add(1, Ordering::Relaxed);
    let mut z = STATE.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A number below `bound`, from the same generator.
pub fn next_below(bound: u64) -> u64 {
    next() % bound.max(1)
}

/// Fills memory with drawn bytes.
///
/// # Safety
/// `bytes` points to `len` writable bytes.
unsafe fn fill(bytes: *mut u8, len: usize) {
    let mut at = 0;
    while at < len {
        let drawn = next().to_le_bytes();
        let count = drawn.len().min(len - at);
        // SAFETY: `at + count <= len`, and the caller vouches for `len` bytes.
        unsafe { std::ptr::copy_nonoverlapping(drawn.as_ptr(), bytes.add(at), count) };
        at += count;
    }
}

/// `getrandom(2)`.
///
/// # Safety
/// That of the call it stands for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(
    bytes: *mut libc::c_void,
    len: libc::size_t,
    flags: libc::c_uint,
) -> libc::ssize_t {
    if !IS_ON.load(Ordering::Relaxed) {
        // SAFETY: the caller's arguments are handed on.
        return unsafe {
            direct::call(libc::SYS_getrandom, [bytes as i64, len as i64, i64::from(flags), 0, 0, 0]) as isize
        };
    }
    // SAFETY: the caller vouches for the memory.
    unsafe { fill(bytes.cast(), len) };
    len as libc::ssize_t
}

/// `getentropy(3)`.
///
/// # Safety
/// That of the call it stands for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getentropy(bytes: *mut libc::c_void, len: libc::size_t) -> libc::c_int {
    // SAFETY: the caller's arguments are handed on.
    if unsafe { getrandom(bytes, len, 0) } == len as isize { 0 } else { -1 }
}

/// `clock_gettime(2)`.
///
/// # Safety
/// That of the call it stands for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    let base = match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => WALL_BASE,
        libc::CLOCK_MONOTONIC
        | libc::CLOCK_MONOTONIC_COARSE
        | libc::CLOCK_MONOTONIC_RAW
        | libc::CLOCK_BOOTTIME => MONOTONIC_BASE,
        // The processor's time is real: it measures the simulator.
        _ => 0,
    };
    if base == 0 || !IS_ON.load(Ordering::Relaxed) {
        // SAFETY: the caller's arguments are handed on.
        return unsafe {
            direct::call(libc::SYS_clock_gettime, [i64::from(clock), time as i64, 0, 0, 0, 0]) as i32
        };
    }
    let nanos = NANOS.load(Ordering::Relaxed);
    let now = libc::timespec {
        tv_sec: (base + nanos / 1_000_000_000) as i64,
        tv_nsec: (nanos % 1_000_000_000) as i64,
    };
    // SAFETY: the caller gives a place for the time.
    unsafe { time.write(now) };
    0
}

/// `syscall(2)`: some crates ask for randomness through it. Everything else goes on to the system.
///
/// # Safety
/// That of the call it stands for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn syscall(number: i64, a: i64, b: i64, c: i64, d: i64, e: i64, f: i64) -> i64 {
    if number == libc::SYS_getrandom && IS_ON.load(Ordering::Relaxed) {
        // SAFETY: the caller's arguments are handed on.
        return unsafe { getrandom(a as *mut libc::c_void, b as usize, c as u32) } as i64;
    }
    // SAFETY: the caller's arguments are handed on.
    unsafe { direct::call(number, [a, b, c, d, e, f]) }
}

/// System calls without the C library, which would come back here.
mod direct {
    use std::arch::asm;

    /// # Safety
    /// That of the system call.
    #[cfg(target_arch = "x86_64")]
    pub unsafe fn call(number: i64, arguments: [i64; 6]) -> i64 {
        let [a, b, c, d, e, f] = arguments;
        let answer: i64;
        // SAFETY: the instruction's contract: number in rax, arguments in these registers, rcx and r11 are lost.
        unsafe {
            asm!("syscall", inlateout("rax") number => answer, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
                in("r8") e, in("r9") f, lateout("rcx") _, lateout("r11") _, options(nostack));
        }
        super::told(answer)
    }

    /// # Safety
    /// That of the system call.
    #[cfg(target_arch = "aarch64")]
    pub unsafe fn call(number: i64, arguments: [i64; 6]) -> i64 {
        let [a, b, c, d, e, f] = arguments;
        let answer: i64;
        // SAFETY: the instruction's contract: number in x8, arguments in x0 to x5.
        unsafe {
            asm!("svc 0", in("x8") number, inlateout("x0") a => answer, in("x1") b, in("x2") c, in("x3") d,
                in("x4") e, in("x5") f, options(nostack));
        }
        super::told(answer)
    }
}

/// The C library's way to tell an error.
fn told(answer: i64) -> i64 {
    if (-4095..0).contains(&answer) {
        // SAFETY: the place of this thread's error number.
        unsafe { *libc::__errno_location() = -answer as i32 };
        return -1;
    }
    answer
}
