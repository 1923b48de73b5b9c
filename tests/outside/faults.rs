//! A library that is loaded between a program and the C library (`LD_PRELOAD`). It counts what the program asks of the files
//! below a folder, and makes one of these calls fail, or kills the process at it. The program that is tested is the one
//! that users have.
//!
//! `C360_FAULT_FOLDER` is the folder. `C360_FAULT_LOG` is a file to which the operation and the path of each call are
//! appended. `C360_FAULT` is `KIND OPERATION NUMBER`, such as `full write 3` for a disk that is full at the third write.
//!
//! Build it with `rustc --edition 2024 -O --crate-type cdylib faults.rs`.

use std::cell::Cell;
use std::ffi::{CStr, OsStr, c_char, c_int, c_uint, c_void};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

const RTLD_NEXT: *mut c_void = -1isize as *mut c_void;
const SIGKILL: c_int = 9;
const AT_FDCWD: c_int = -100;
const O_WRONLY_RDWR_CREAT: c_int = 0o1 | 0o2 | 0o100;

const EACCES: c_int = 13;
const EIO: c_int = 5;
const ENOSPC: c_int = 28;
const ETIMEDOUT: c_int = 110;

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, symbol: *const c_char) -> *mut c_void;
    fn __errno_location() -> *mut c_int;
    fn kill(process: c_int, signal: c_int) -> c_int;
    fn getpid() -> c_int;
}

/// What is to happen, and where.
struct Plan {
    folder: PathBuf,
    log: Option<std::fs::File>,
    kind: String,
    operation: String,
    number: u64,
}

/// What a call is to do.
#[derive(Clone, Copy, PartialEq)]
enum Act {
    Go,
    Fail(c_int),
    DieAfter,
    /// Half of the bytes are read or written.
    Short,
    /// One bit of what is read is another one.
    Flip,
}

thread_local! {
    /// Whether this thread is at work in this library, whose own calls do not count.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}
static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
static MET: AtomicU64 = AtomicU64::new(0);

fn plan() -> Option<Plan> {
    let folder = PathBuf::from(std::env::var_os("C360_FAULT_FOLDER")?);
    let log = std::env::var_os("C360_FAULT_LOG").and_then(|path| {
        std::fs::OpenOptions::new().create(true).append(true).open(path).ok()
    });
    let fault = std::env::var("C360_FAULT").unwrap_or_default();
    let mut words = fault.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap_or_default();
    let (kind, operation, number) = (next(), next(), next().parse().unwrap_or(0));
    Some(Plan { folder, log, kind, operation, number })
}

/// Counts a call, and says what it is to do.
fn meet(operation: &str, path: impl FnOnce() -> Option<PathBuf>) -> Act {
    if INSIDE.with(|inside| inside.replace(true)) {
        return Act::Go;
    }
    let act = decide(operation, path);
    INSIDE.with(|inside| inside.set(false));
    act
}

fn decide(operation: &str, path: impl FnOnce() -> Option<PathBuf>) -> Act {
    let Some(plan) = PLAN.get_or_init(plan) else { return Act::Go };
    let Some(path) = path().filter(|path| path.starts_with(&plan.folder)) else { return Act::Go };
    if let Some(mut log) = plan.log.as_ref() {
        let _ = log.write_all(format!("{operation} {}\n", path.display()).as_bytes());
    }
    let is_full = plan.kind == "full";
    // A disk that is full stays full for whatever writes.
    let is_meant = operation == plan.operation || is_full && operation == "write";
    if !is_meant {
        return Act::Go;
    }
    let met = MET.fetch_add(u64::from(operation == plan.operation), Ordering::SeqCst) + 1;
    if met != plan.number && !(is_full && met > plan.number) {
        return Act::Go;
    }
    match plan.kind.as_str() {
        "kill" => die(),
        "killed-after" => Act::DieAfter,
        "full" => Act::Fail(ENOSPC),
        "denied" => Act::Fail(EACCES),
        "failed" => Act::Fail(EIO),
        "timeout" => Act::Fail(ETIMEDOUT),
        "short" => Act::Short,
        "flip" => Act::Flip,
        other => panic!("{other} is no kind of fault"),
    }
}

fn die() -> ! {
    unsafe { kill(getpid(), SIGKILL) };
    unreachable!("the process was killed")
}

/// What a call gives that has failed.
trait Failed {
    const FAILED: Self;
}

impl Failed for c_int {
    const FAILED: Self = -1;
}

impl Failed for isize {
    const FAILED: Self = -1;
}

impl Failed for *mut c_void {
    const FAILED: Self = std::ptr::null_mut();
}

fn perform<T: Failed>(act: Act, call: impl FnOnce() -> T) -> T {
    match act {
        Act::Fail(code) => {
            unsafe { *__errno_location() = code };
            T::FAILED
        }
        Act::DieAfter => {
            call();
            die()
        }
        Act::Go | Act::Short | Act::Flip => call(),
    }
}

/// The path of a name that a call got.
unsafe fn named(name: *const c_char) -> Option<PathBuf> {
    (!name.is_null()).then(|| {
        let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
        std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
    })
}

/// The path of a name in an open folder.
unsafe fn named_in(folder: c_int, name: *const c_char) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(unsafe { CStr::from_ptr(name) }.to_bytes()));
    match folder == AT_FDCWD || path.is_absolute() {
        true => unsafe { named(name) },
        false => Some(opened(folder)?.join(path)),
    }
}

/// The path of an open file.
fn opened(file: c_int) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{file}")).ok()
}

fn open_or_create(flags: c_int) -> &'static str {
    if flags & O_WRONLY_RDWR_CREAT != 0 { "create" } else { "open" }
}

/// The function of the C library that a function of this one stands before.
macro_rules! next {
    ($name:ident($($type:ty),*) -> $result:ty) => {{
        static NEXT: OnceLock<usize> = OnceLock::new();
        let name = concat!(stringify!($name), "\0").as_ptr().cast();
        let found = *NEXT.get_or_init(|| unsafe { dlsym(RTLD_NEXT, name) } as usize);
        unsafe { std::mem::transmute::<usize, unsafe extern "C" fn($($type),*) -> $result>(found) }
    }};
}

macro_rules! calls {
    ($($name:ident($($argument:ident: $type:ty),*) -> $result:ty: $operation:expr, $path:expr;)*) => {$(
        #[unsafe(no_mangle)]
        #[allow(unused_unsafe, reason = "the path of some calls is that of an open file")]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            let next = next!($name($($type),*) -> $result);
            let act = meet($operation, || unsafe { $path });
            perform(act, || unsafe { next($($argument),*) })
        }
    )*};
}

type Name = *const c_char;

calls! {
    open(path: Name, flags: c_int, mode: c_uint) -> c_int: open_or_create(flags), named(path);
    open64(path: Name, flags: c_int, mode: c_uint) -> c_int: open_or_create(flags), named(path);
    openat(folder: c_int, path: Name, flags: c_int, mode: c_uint) -> c_int: open_or_create(flags), named_in(folder, path);
    openat64(folder: c_int, path: Name, flags: c_int, mode: c_uint) -> c_int: open_or_create(flags), named_in(folder, path);
    statx(folder: c_int, path: Name, flags: c_int, mask: c_uint, found: *mut c_void) -> c_int: "find", named_in(folder, path);
    opendir(path: Name) -> *mut c_void: "list", named(path);
    mkdir(path: Name, mode: c_uint) -> c_int: "folder", named(path);
    rename(from: Name, to: Name) -> c_int: "rename", named(to);
    link(from: Name, to: Name) -> c_int: "link", named(to);
    linkat(from: c_int, old: Name, folder: c_int, new: Name, flags: c_int) -> c_int: "link", named_in(folder, new);
    symlink(to: Name, path: Name) -> c_int: "link", named(path);
    unlink(path: Name) -> c_int: "remove", named(path);
    unlinkat(folder: c_int, path: Name, flags: c_int) -> c_int: "remove", named_in(folder, path);
    rmdir(path: Name) -> c_int: "remove", named(path);
    fsync(file: c_int) -> c_int: "sync", opened(file);
    fdatasync(file: c_int) -> c_int: "sync", opened(file);
    ftruncate64(file: c_int, length: i64) -> c_int: "write", opened(file);
    writev(file: c_int, parts: *const c_void, count: c_int) -> isize: "write", opened(file);
    copy_file_range(from: c_int, at: *mut i64, file: c_int, to: *mut i64, count: usize, flags: c_uint) -> isize: "write", opened(file);
    sendfile64(file: c_int, from: c_int, at: *mut i64, count: usize) -> isize: "write", opened(file);
}

/// How many of `count` bytes a call is to pass on.
fn length(act: Act, count: usize) -> usize {
    if act == Act::Short { count.div_ceil(2) } else { count }
}

/// Flips a bit in the middle of what was read.
unsafe fn flip(act: Act, bytes: *mut c_void, read: isize) -> isize {
    if act == Act::Flip && read > 0 {
        let middle = unsafe { bytes.cast::<u8>().offset(read / 2) };
        unsafe { *middle ^= 4 };
    }
    read
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn read(file: c_int, bytes: *mut c_void, count: usize) -> isize {
    let next = next!(read(c_int, *mut c_void, usize) -> isize);
    let act = meet("read", || opened(file));
    perform(act, || unsafe { flip(act, bytes, next(file, bytes, length(act, count))) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pread64(file: c_int, bytes: *mut c_void, count: usize, at: i64) -> isize {
    let next = next!(pread64(c_int, *mut c_void, usize, i64) -> isize);
    let act = meet("read", || opened(file));
    perform(act, || unsafe { flip(act, bytes, next(file, bytes, length(act, count), at)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(file: c_int, bytes: *const c_void, count: usize) -> isize {
    let next = next!(write(c_int, *const c_void, usize) -> isize);
    let act = meet("write", || opened(file));
    perform(act, || unsafe { next(file, bytes, length(act, count)) })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(file: c_int, bytes: *const c_void, count: usize, at: i64) -> isize {
    let next = next!(pwrite64(c_int, *const c_void, usize, i64) -> isize);
    let act = meet("write", || opened(file));
    perform(act, || unsafe { next(file, bytes, length(act, count), at) })
}
