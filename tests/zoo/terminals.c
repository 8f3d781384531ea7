/* Terminals: a job that types into its terminal, and a runner that gives a command one. */
#include "zoo.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <utmp.h>
#include <unistd.h>

/* What it pushes would be read by the shell that started the job, with that shell's rights. */
static void tiocsti(int argc, char **argv)
{
	const char *keys = argc > 0 ? argv[0] : "echo typed-by-the-job\n";
	const char *result = "pushed";
	int fd = open("/dev/tty", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		result = strerrorname_np(errno);
	for (; fd >= 0 && *keys; keys++)
		if (ioctl(fd, TIOCSTI, keys)) {
			result = strerrorname_np(errno);
			break;
		}
	ready(NULL, 0, text("tiocsti=%s", result));
}

static void relay(int from, int to, struct pollfd *end_of)
{
	char buffer[4096];
	ssize_t got = read(from, buffer, sizeof buffer);
	if (got <= 0)
		end_of->fd = -1;
	else if (write(to, buffer, (size_t)got) != got)
		die("relay of %zd bytes", got);
}

static void wait_and_relay(int master, int child)
{
	struct pollfd fds[] = { { .fd = master, .events = POLLIN },
				{ .fd = child, .events = POLLIN },
				{ .fd = 0, .events = POLLIN } };
	for (;;) {
		if (poll(fds, 3, -1) < 0)
			die("poll");
		if (fds[0].revents & POLLIN)
			relay(master, 1, &fds[0]);
		else if (fds[1].revents)
			return;
		else if (fds[2].revents)
			relay(0, master, &fds[2]);
	}
}

/* `pty CMD…`: CMD leads a session on a new terminal; what it writes comes to stdout, stdin is typed in. At its end one
 * line on stderr says how many bytes of input are left in the terminal for the next reader. */
static void pty(int argc, char **argv)
{
	int master, slave, left = -1;
	if (argc < 1)
		die("pty needs a command");
	if (openpty(&master, &slave, NULL, NULL, NULL))
		die("openpty");
	fcntl(master, F_SETFD, FD_CLOEXEC);
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		if (login_tty(slave))
			die("login_tty");
		execvp(argv[0], argv);
		die("exec of %s", argv[0]);
	}
	int child = (int)syscall(SYS_pidfd_open, pid, 0);
	if (child < 0)
		die("pidfd_open");
	wait_and_relay(master, child);
	int status;
	waitpid(pid, &status, 0);
	ioctl(slave, FIONREAD, &left);
	dprintf(2, "pty: input-left=%d\n", left);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

const struct animal terminals_room[] = {
	{ "tiocsti", "[KEYS]", "pushes KEYS into its terminal; says tiocsti=pushed or the errno", tiocsti },
	{ "pty", "CMD…", "(a wrapper) runs CMD on a new terminal; says what input is left in it", pty },
	{ 0 },
};
