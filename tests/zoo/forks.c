/* Those that get away from their parent, their session or their environment. */
#include "zoo.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static void twice(void *arg)
{
	(void)arg;
	pid_t parent = getpid();
	if (fork() != 0)
		_exit(0);
	bounded_life(LIFE);
	/* Only an orphan has arrived. */
	while (getppid() == parent)
		nap();
	arrived();
}

static void double_fork(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t orphan = spawn(twice, NULL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	ready(&orphan, 1, NULL);
}

static void new_session(void *arg)
{
	(void)arg;
	if (setsid() < 0)
		die("setsid");
	arrived();
}

static void set_sid(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t leader = spawn(new_session, NULL);
	ready(&leader, 1, NULL);
}

/* `linger FD [NAME]`: what the others exec. Takes the name, tells its pid to FD, and stays. */
static void linger(int argc, char **argv)
{
	if (argc < 1)
		die("linger needs a descriptor");
	int fd = (int)number(argv[0], 0, 1 << 20);
	if (argc > 1 && argv[1][0] && prctl(PR_SET_NAME, argv[1]))
		die("PR_SET_NAME");
	pid_t me = getpid();
	if (write(fd, &me, sizeof me) != sizeof me)
		die("descriptor %d", fd);
	close(fd);
	stay();
}

static void exec_linger(char **args, char **environment)
{
	execve("/proc/self/exe", args, environment);
	die("exec of zoo itself");
}

/* As `env -i nohup setsid worker </dev/null >/dev/null 2>&1 &` does, after a double fork. */
static void scrub(void *arg)
{
	(void)arg;
	if (fork() != 0)
		_exit(0);
	setsid();
	signal(SIGHUP, SIG_IGN);
	to_dev_null();
	if (chdir("/"))
		die("chdir /");
	char *none[] = { NULL };
	exec_linger((char *[]){ "worker", "linger", text("%d", arrival_fd()), NULL }, none);
}

static void scrubbed(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t worker = spawn(scrub, NULL);
	while (waitpid(-1, NULL, 0) > 0)
		;
	ready(&worker, 1, NULL);
}

static void dress_up(void *arg)
{
	(void)arg;
	char *args[] = {
		"zoo",
		"linger",
		text("%d", arrival_fd()),
		") R 1 1 (",
		"line one\nline two",
		"\x1b[31mred\x1b]0;title\x07",
		"\xff\xfe not utf-8",
		"",
		"\"quoted\" \\ {\"json\": true}",
		NULL,
	};
	extern char **environ;
	exec_linger(args, environ);
}

static void hostile_name(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t hostile = spawn(dress_up, NULL);
	ready(&hostile, 1, NULL);
}

static void write_now_and_then(void *arg)
{
	(void)arg;
	signal(SIGPIPE, SIG_IGN);
	arrived();
	for (;;) {
		usleep(200 * 1000);
		/* An error is nothing to it: the reader may be gone. */
		if (write(1, "still here\n", 11) < 0)
			nap();
	}
}

static void keep_stdout(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t writer = spawn(write_now_and_then, NULL);
	ready(&writer, 1, NULL);
}

const struct animal forks_room[] = {
	{ "double-fork", "", "a grandchild whose parent has exited", double_fork },
	{ "setsid", "", "a child that leads its own session", set_sid },
	{ "scrubbed", "", "like env -i nohup: double fork, own session, no environment, /dev/null", scrubbed },
	{ "hostile-name", "", "a child called `) R 1 1 (` with newlines and escapes in its arguments", hostile_name },
	{ "keep-stdout", "", "a child that keeps stdout open and writes to it", keep_stdout },
	{ "linger", "FD [NAME]", "(used by others) tells its pid to FD and stays", linger },
	{ 0 },
};
