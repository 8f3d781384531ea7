/* A file system that answers nothing but INIT, by the raw protocol of /dev/fuse, and those who wait for it.
 *
 * A request that its server has read and not answered can't be interrupted, not even by SIGKILL: the process sleeps in
 * D until somebody aborts the connection (the server ends, or `umount -f`). */
#include "zoo.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile sig_atomic_t asked_to_end;

static void on_term(int signal)
{
	(void)signal;
	asked_to_end = 1;
}

static void answer_init(int fd, const char *request)
{
	const struct fuse_in_header *in = (const struct fuse_in_header *)request;
	const struct fuse_init_in *init = (const struct fuse_init_in *)(request + sizeof *in);
	struct {
		struct fuse_out_header head;
		struct fuse_init_out body;
	} reply = {
		.head = { .len = sizeof reply, .unique = in->unique },
		.body = { .major = FUSE_KERNEL_VERSION,
			  .minor = init->minor < FUSE_KERNEL_MINOR_VERSION ? init->minor : FUSE_KERNEL_MINOR_VERSION,
			  .max_readahead = init->max_readahead,
			  .max_background = 12,
			  .congestion_threshold = 9,
			  .max_write = 65536,
			  .time_gran = 1 },
	};
	if (write(fd, &reply, sizeof reply) != sizeof reply)
		die("answer to FUSE_INIT");
}

static int mount_fuse(const char *point)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die("/dev/fuse");
	char *options = text("fd=%d,rootmode=40755,user_id=%d,group_id=%d,allow_other", fd, (int)getuid(), (int)getgid());
	if (mount("zoo", point, "fuse.zoo", MS_NODEV | MS_NOSUID, options))
		die("mount of FUSE on %s", point);
	return fd;
}

/* Runs OUTSIDE of the job, and reads on for ever: what it has not read could still be interrupted. */
static void fuse_server(int argc, char **argv)
{
	static char request[1 << 18] __attribute__((aligned(8)));
	if (argc < 1)
		die("fuse-server needs a directory to mount on");
	struct sigaction act = { .sa_handler = on_term };
	sigaction(SIGTERM, &act, NULL);
	sigaction(SIGINT, &act, NULL);
	sigaction(SIGALRM, &act, NULL);
	alarm(LIFE - 10);
	int fd = mount_fuse(argv[0]);
	while (!asked_to_end) {
		ssize_t got = read(fd, request, sizeof request);
		if (got < 0 && errno == ENODEV)
			_exit(0);
		if (got < 0)
			continue;
		const struct fuse_in_header *in = (const struct fuse_in_header *)request;
		if (in->opcode == FUSE_INIT) {
			answer_init(fd, request);
			dprintf(1, "ready %d\n", (int)getpid());
		} else if (in->pid > 1 && in->opcode != FUSE_FORGET && in->opcode != FUSE_BATCH_FORGET) {
			/* Now that it is read it can't be taken back. Who handles SIGURG learns of that, and goes
			 * from an interruptible sleep into D; all others ignore it. */
			kill((pid_t)in->pid, SIGURG);
		}
	}
	umount2(argv[0], MNT_FORCE | MNT_DETACH);
	_exit(0);
}

struct victim {
	const char *kind;
	const char *point;
};

static void on_urg(int signal)
{
	(void)signal;
}

static void ask(void *arg)
{
	const struct victim *v = arg;
	struct stat st;
	const char *file = text("%s/file", v->point);
	arrived();
	if (strcmp(v->kind, "stat") == 0)
		stat(v->point, &st);
	else if (strcmp(v->kind, "open") == 0)
		open(file, O_RDONLY);
	else if (strcmp(v->kind, "exec") == 0)
		execl(file, "file", (char *)NULL);
	else if (strcmp(v->kind, "chdir") == 0 && chdir(v->point))
		_exit(3);
	_exit(4);
}

/* A vfork child that cannot reach its exec holds its parent in D as well. */
static void ask_by_vfork(void *arg)
{
	const struct victim *v = arg;
	const char *file = text("%s/file", v->point);
	atomic_store(&board->pid[0], getpid());
	if (vfork() == 0) {
		arrived();
		execl(file, "file", (char *)NULL);
		_exit(4);
	}
}

static void fuse_victim(int argc, char **argv)
{
	if (argc < 2)
		die("fuse-victim needs a mount point and one of stat, open, exec, chdir, vfork-exec");
	struct victim v = { .point = argv[0], .kind = argv[1] };
	/* See the server: it signals whom it will never answer. */
	sigaction(SIGURG, &(struct sigaction){ .sa_handler = on_urg }, NULL);
	if (strcmp(v.kind, "vfork-exec") == 0) {
		pid_t child = spawn(ask_by_vfork, &v);
		pid_t parent = atomic_load(&board->pid[0]);
		await_state(child, 'D');
		await_state(parent, 'D');
		ready((pid_t[]){ parent, child }, 2, NULL);
	}
	pid_t pid = spawn(ask, &v);
	await_state(pid, 'D');
	ready(&pid, 1, NULL);
}

const struct animal fuse_room[] = {
	{ "fuse-server", "DIR", "(runs outside) mounts a FUSE on DIR that never answers; ends by TERM", fuse_server },
	{ "fuse-victim", "DIR stat|open|exec|chdir|vfork-exec", "a child in D on that file system", fuse_victim },
	{ 0 },
};
