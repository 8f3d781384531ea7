//! One small seccomp filter: no pushing of keystrokes into a terminal.
//!
//! A job of another user that shares root's terminal could type commands into it (`TIOCSTI`, ioctl_tty(2)) or paste
//! them on a console (`TIOCLINUX`), to be run by root's shell afterwards. Kernels since 6.2 can switch the first off, few
//! do. The filter answers `EPERM` to these two and lets everything else pass, 32-bit programs included.

use libc::sock_filter;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const AUDIT_ARCH_AARCH64: u32 = 0xc000_00b7;
const AUDIT_ARCH_ARM: u32 = 0x4000_0028;
const X32_BIT: u32 = 0x4000_0000;
const TIOCSTI: u32 = 0x5412;
const TIOCLINUX: u32 = 0x541c;

// Offsets in struct seccomp_data, little-endian.
const NR: u32 = 0;
const ARCH: u32 = 4;
const ARG1_LOW: u32 = 24;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const fn op(code: u16, k: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Jumps `yes` instructions ahead if the accumulator equals `k`, else `no`.
const fn if_equal(k: u32, yes: u8, no: u8) -> sock_filter {
    sock_filter {
        code: EQUAL,
        jt: yes,
        jf: no,
        k,
    }
}

/// The filter. The kernel compares only the low half of an ioctl's request, and so does this.
pub static NO_KEYSTROKES: [sock_filter; 18] = [
    op(LOAD, ARCH),
    if_equal(AUDIT_ARCH_X86_64, 3, 0),
    if_equal(AUDIT_ARCH_I386, 6, 0),
    if_equal(AUDIT_ARCH_ARM, 5, 0),
    if_equal(AUDIT_ARCH_AARCH64, 6, 11),
    // 5: x86_64, and x32 with its bit: ioctl is 16, and 514 for x32.
    op(LOAD, NR),
    op(AND, !X32_BIT),
    if_equal(16, 5, 0),
    if_equal(514, 4, 7),
    // 9: 32-bit x86 and ARM: 54.
    op(LOAD, NR),
    if_equal(54, 2, 5),
    // 11: ARM64: 29.
    op(LOAD, NR),
    if_equal(29, 0, 3),
    // 13: an ioctl; which one?
    op(LOAD, ARG1_LOW),
    if_equal(TIOCSTI, 2, 0),
    if_equal(TIOCLINUX, 1, 0),
    op(RETURN, libc::SECCOMP_RET_ALLOW),
    op(RETURN, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers, by the rules of classic BPF (Documentation/networking/filter.rst).
    fn answer(arch: u32, nr: u32, arg1: u32) -> u32 {
        let (mut at, mut acc) = (0, 0);
        loop {
            let i = NO_KEYSTROKES[at];
            at += 1;
            match i.code {
                LOAD => {
                    acc = [(NR, nr), (ARCH, arch), (ARG1_LOW, arg1)]
                        .iter()
                        .find(|p| p.0 == i.k)
                        .unwrap()
                        .1
                }
                AND => acc &= i.k,
                EQUAL => at += usize::from(if acc == i.k { i.jt } else { i.jf }),
                RETURN => return i.k,
                other => panic!("unknown instruction {other}"),
            }
        }
    }

    #[test]
    fn refuses_the_two_ioctls_and_nothing_else() {
        let allow = libc::SECCOMP_RET_ALLOW;
        for (arch, ioctl) in [
            (AUDIT_ARCH_X86_64, 16),
            (AUDIT_ARCH_X86_64, X32_BIT | 514),
            (AUDIT_ARCH_I386, 54),
            (AUDIT_ARCH_ARM, 54),
            (AUDIT_ARCH_AARCH64, 29),
        ] {
            assert_ne!(answer(arch, ioctl, TIOCSTI), allow);
            assert_ne!(answer(arch, ioctl, TIOCLINUX), allow);
            assert_eq!(answer(arch, ioctl, 0x5413), allow, "TIOCGWINSZ");
            assert_eq!(answer(arch, ioctl + 1, TIOCSTI), allow, "another call");
        }
        assert_eq!(
            answer(0xdead_beef, 16, TIOCSTI),
            allow,
            "an architecture that we do not know"
        );
    }
}
