/* Wrappers that make the kernel answer as an older one would: nothing in the product is switched. */
#include "zoo.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/openat2.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define NATIVE AUDIT_ARCH_AARCH64
#else
#error "name the audit architecture of this machine"
#endif

static const struct call {
	const char *name;
	int nr;
} calls[] = {
#define CALL(name) { #name, SYS_##name }
	CALL(clone3),	     CALL(pidfd_open),	 CALL(pidfd_send_signal), CALL(openat2),     CALL(close_range),
	CALL(memfd_create),  CALL(statx),	 CALL(splice),		  CALL(signalfd4),   CALL(inotify_init1),
	CALL(timerfd_create), CALL(renameat2),	 CALL(getrandom),	  CALL(seccomp),     CALL(execveat),
	CALL(faccessat2),    CALL(epoll_pwait2), CALL(pidfd_getfd),	  CALL(waitid),	     CALL(ptrace),
	CALL(landlock_create_ruleset),
#undef CALL
};

static int call_number(const char *name)
{
	for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
		if (strcmp(calls[i].name, name) == 0)
			return calls[i].nr;
	errno = EINVAL;
	die("%s is not in the list of calls that can be taken away", name);
}

enum { MOST = 32 };

/* A filter that gives `action` to the calls in `numbers` and lets the others pass. */
static int install(const int *numbers, int n, uint32_t action, unsigned flags)
{
	struct sock_filter code[4 + MOST + 2];
	int at = 0;
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, NATIVE, 0, (uint8_t)(n + 1));
	code[at++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (int i = 0; i < n; i++)
		code[at++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)numbers[i],
							  (uint8_t)(n - i), 0);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[at++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, action);
	struct sock_fprog program = { .len = (unsigned short)at, .filter = code };
	int fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	if (fd < 0 && errno == EACCES) {
		/* Not root: the kernel wants no_new_privs, which also disarms setuid programs. */
		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
			die("PR_SET_NO_NEW_PRIVS");
		fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
	}
	if (fd < 0)
		die("seccomp filter");
	return fd;
}

/* The index of `--`, with at least one word on both sides. */
static int dashes(int argc, char **argv)
{
	for (int i = 1; i + 1 < argc; i++)
		if (strcmp(argv[i], "--") == 0 && i <= MOST)
			return i;
	errno = EINVAL;
	die("usage: NAME… -- CMD…");
}

static void seccomp_enosys(int argc, char **argv)
{
	int n = dashes(argc, argv), numbers[MOST];
	for (int i = 0; i < n; i++)
		numbers[i] = call_number(argv[i]);
	install(numbers, n, SECCOMP_RET_ERRNO | ENOSYS, 0);
	execvp(argv[n + 1], argv + n + 1);
	die("exec of %s", argv[n + 1]);
}

/* The calls that look up a path, and which of their arguments it is. */
static const struct {
	int nr;
	int arg;
} lookups[] = {
	{ SYS_openat, 1 },  { SYS_openat2, 1 },	  { SYS_newfstatat, 1 }, { SYS_statx, 1 }, { SYS_faccessat, 1 },
	{ SYS_faccessat2, 1 },
#ifdef SYS_open
	{ SYS_open, 0 },    { SYS_stat, 0 },	  { SYS_lstat, 0 },	 { SYS_access, 0 },
#endif
};
enum { LOOKUPS = sizeof lookups / sizeof lookups[0] };

/* Reads the path as the caller has it; a page at a time, as it may end just before an unmapped one. */
static bool read_path(pid_t pid, uint64_t address, char *path, size_t size)
{
	size_t have = 0;
	while (have < size - 1) {
		size_t want = 4096 - (address + have) % 4096;
		if (want > size - 1 - have)
			want = size - 1 - have;
		struct iovec here = { path + have, want }, there = { (void *)(uintptr_t)(address + have), want };
		ssize_t got = process_vm_readv(pid, &here, 1, &there, 1, 0);
		if (got <= 0)
			return false;
		if (memchr(path + have, 0, (size_t)got))
			return true;
		have += (size_t)got;
	}
	return false;
}

static bool is_masked(const struct seccomp_notif *call, char **names, int n)
{
	char path[4096];
	int arg = -1;
	for (int i = 0; i < LOOKUPS; i++)
		if (lookups[i].nr == call->data.nr)
			arg = lookups[i].arg;
	if (arg < 0 || !read_path((pid_t)call->pid, call->data.args[arg], path, sizeof path))
		return false;
	const char *slash = strrchr(path, '/');
	const char *last = slash ? slash + 1 : path;
	for (int i = 0; i < n; i++)
		if (strcmp(last, names[i]) == 0)
			return true;
	return false;
}

/* Answers until the last process under the filter is gone. */
static _Noreturn void answer(int listener, char **names, int n)
{
	for (;;) {
		struct pollfd fd = { .fd = listener, .events = POLLIN };
		struct seccomp_notif call = { 0 };
		if (poll(&fd, 1, -1) < 0 || fd.revents & (POLLHUP | POLLERR))
			_exit(0);
		/* ENOENT: the caller was killed meanwhile. */
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &call))
			continue;
		struct seccomp_notif_resp reply = { .id = call.id };
		if (is_masked(&call, names, n))
			reply.error = -ENOENT;
		else
			reply.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE;
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &reply);
	}
}

static void send_fd(int socket, int fd)
{
	char byte = 0, room[CMSG_SPACE(sizeof fd)] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	*head = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof fd) };
	memcpy(CMSG_DATA(head), &fd, sizeof fd);
	if (sendmsg(socket, &message, 0) != 1)
		die("sendmsg of the listener");
}

static int receive_fd(int socket)
{
	char byte, room[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec data = { &byte, 1 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room };
	int fd;
	if (recvmsg(socket, &message, MSG_CMSG_CLOEXEC) != 1 || !CMSG_FIRSTHDR(&message))
		die("no listener came");
	memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
	return fd;
}

/* An orphan in a session of its own, so that CMD has no child that it does not know of. It holds none of CMD's files:
 * the end of a pipe must stay visible. */
static void start_answerer(int socket, char **names, int n)
{
	pid_t between = fork();
	if (between > 0) {
		waitpid(between, NULL, 0);
		return;
	}
	if (fork() != 0)
		_exit(0);
	bounded_life(LIFE);
	setsid();
	/* It lives until the last process under the filter has ended, and tests know it by this name. */
	prctl(PR_SET_NAME, "zoo-answerer");
	int kept = dup2(socket, 3);
	syscall(SYS_close_range, 4, ~0U, 0);
	int listener = receive_fd(kept);
	to_dev_null();
	/* A live descriptor of a directory would keep a file system busy. */
	if (chdir("/"))
		_exit(1);
	if (listener != 3)
		dup2(listener, 3);
	syscall(SYS_close_range, 4, ~0U, 0);
	answer(3, names, n);
}

/* A file of a cgroup that does not exist yet can't be hidden by a mount. So each look-up of a path is put before a
 * supervisor, which answers ENOENT where the last component is one of the names: what a kernel without
 * that file would answer. */
static void mask_file(int argc, char **argv)
{
	int n = dashes(argc, argv), ends[2], numbers[LOOKUPS];
	for (int i = 0; i < LOOKUPS; i++)
		numbers[i] = lookups[i].nr;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends))
		die("socketpair");
	start_answerer(ends[1], argv, n);
	close(ends[1]);
	int listener = install(numbers, LOOKUPS, SECCOMP_RET_USER_NOTIF, SECCOMP_FILTER_FLAG_NEW_LISTENER);
	send_fd(ends[0], listener);
	close(listener);
	close(ends[0]);
	execvp(argv[n + 1], argv + n + 1);
	die("exec of %s", argv[n + 1]);
}

const struct animal filters_room[] = {
	{ "seccomp-enosys", "CALL… -- CMD…", "(a wrapper) runs CMD where these calls give ENOSYS", seccomp_enosys },
	{ "mask-file", "NAME… -- CMD…", "(a wrapper) runs CMD where files of these names give ENOENT", mask_file },
	{ 0 },
};
