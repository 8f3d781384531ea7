/* Those that use the cgroup tree themselves. */
#include "zoo.h"
#include <errno.h>
#include <libgen.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void enter(const char *cgroup)
{
	write_file(text("%s/cgroup.procs", cgroup), "0");
}

/* Puts this thread into a threaded child of the leaf: its `cgroup.procs` and `cgroup.kill` answer EOPNOTSUPP. */
static void *move_thread(void *arg)
{
	write_file(text("%s/cgroup.threads", (char *)arg), text("%ld", syscall(SYS_gettid)));
	arrived();
	stay();
}

static void threaded(void *arg)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, move_thread, arg);
	if (error) {
		errno = error;
		die("pthread_create");
	}
}

static void threaded_cgroup(int argc, char **argv)
{
	(void)argc, (void)argv;
	char *child = text("%s/zoo-threaded", own_cgroup());
	make_dir(child);
	write_file(text("%s/cgroup.type", child), "threaded");
	pid_t pid = spawn(threaded, child);
	ready(&pid, 1, NULL);
}

static void enter_and_stay(void *arg)
{
	enter(arg);
	arrived();
}

static void nested_cgroups(int argc, char **argv)
{
	(void)argc, (void)argv;
	enum { DEEP = 5 };
	pid_t pids[DEEP];
	char *at = own_cgroup();
	for (int i = 0; i < DEEP; i++) {
		at = text("%s/zoo-%d", at, i + 1);
		make_dir(at);
		pids[i] = spawn(enter_and_stay, at);
	}
	ready(pids, DEEP, NULL);
}

static void move_sibling(int argc, char **argv)
{
	(void)argc, (void)argv;
	char *sibling = text("%s/zoo-sibling", dirname(own_cgroup()));
	make_dir(sibling);
	pid_t pid = spawn(enter_and_stay, sibling);
	ready(&pid, 1, NULL);
}

static void leave(void *arg)
{
	if (fork() != 0)
		_exit(0);
	bounded_life(LIFE);
	setsid();
	enter_and_stay(arg);
}

static void leave_by_itself(int argc, char **argv)
{
	if (argc < 1)
		die("leave-by-itself needs the directory of a cgroup");
	pid_t pid = spawn(leave, argv[0]);
	ready(&pid, 1, NULL);
}

/* A shell or runner that was started in a cgroup which had once been killed (while it was empty): on kernels from
 * 6.12.16 on, every clone3(CLONE_INTO_CGROUP) of it is killed at birth. */
static void once_killed_launcher(int argc, char **argv)
{
	if (argc < 2)
		die("once-killed-launcher needs a cgroup to make, and a command");
	make_dir(argv[0]);
	write_file(text("%s/cgroup.kill", argv[0]), "1");
	enter(argv[0]);
	execvp(argv[1], argv + 1);
	die("exec of %s", argv[1]);
}

static void in_cgroup(int argc, char **argv)
{
	if (argc < 2)
		die("in-cgroup needs a cgroup, and a command");
	make_dir(argv[0]);
	enter(argv[0]);
	execvp(argv[1], argv + 1);
	die("exec of %s", argv[1]);
}

const struct animal cgroups_room[] = {
	{ "threaded-cgroup", "", "a child with a thread in a threaded cgroup below its leaf", threaded_cgroup },
	{ "nested-cgroups", "", "five cgroups below its leaf, a process in each", nested_cgroups },
	{ "move-sibling", "", "a child that moves into a cgroup that it makes beside its leaf", move_sibling },
	{ "leave-by-itself", "CGROUP", "an orphan that writes its pid into CGROUP", leave_by_itself },
	{ "once-killed-launcher", "CGROUP CMD…", "(a wrapper) makes CGROUP, kills it empty, moves in, runs CMD",
	  once_killed_launcher },
	{ "in-cgroup", "CGROUP CMD…", "(a wrapper) makes CGROUP, moves in, runs CMD", in_cgroup },
	{ 0 },
};
