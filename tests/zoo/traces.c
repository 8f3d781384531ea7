/* Those that are traced. */
#include "zoo.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

/* A tracee that is killed stops once more at its exit, until its tracer lets it go or dies. */
static void seize(pid_t pid)
{
	if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)(long)PTRACE_O_TRACEEXIT))
		die("PTRACE_SEIZE of %d", (int)pid);
}

static void trace_a_child(void *arg)
{
	(void)arg;
	pid_t tracee = fork();
	if (tracee == 0) {
		bounded_life(LIFE);
		stay();
	}
	seize(tracee);
	if (ptrace(PTRACE_INTERRUPT, tracee, NULL, NULL) || waitpid(tracee, NULL, __WALL) != tracee)
		die("PTRACE_INTERRUPT of %d", (int)tracee);
	atomic_store(&board->pid[0], tracee);
	arrived();
}

static void ptrace_inside(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t tracer = spawn(trace_a_child, NULL);
	pid_t tracee = atomic_load(&board->pid[0]);
	await_state(tracee, 't');
	ready((pid_t[]){ tracer, tracee }, 2, NULL);
}

/* Runs OUTSIDE of the job. Lets the tracee live as it likes, but never lets it go out of its exit stop. It ends by
 * SIGTERM, and that releases the tracee. */
static void ptrace_outside(int argc, char **argv)
{
	if (argc < 1)
		die("ptrace-outside needs a pid");
	pid_t pid = (pid_t)number(argv[0], 1, 1 << 22);
	seize(pid);
	/* Nobody needs to read what we say; to die of that would release the tracee. */
	signal(SIGPIPE, SIG_IGN);
	dprintf(1, "ready %d %d\n", (int)getpid(), (int)pid);
	for (;;) {
		int status;
		if (waitpid(pid, &status, __WALL) < 0)
			die("waitpid of the tracee");
		if (!WIFSTOPPED(status))
			_exit(0);
		if (status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8)) {
			dprintf(1, "holding %d\n", (int)pid);
			stay();
		}
		bool group_stop = status >> 16 == PTRACE_EVENT_STOP;
		if (group_stop && WSTOPSIG(status) != SIGTRAP)
			ptrace(PTRACE_LISTEN, pid, NULL, NULL);
		else
			ptrace(PTRACE_CONT, pid, NULL, group_stop ? NULL : (void *)(long)WSTOPSIG(status));
	}
}

const struct animal traces_room[] = {
	{ "ptrace-inside", "", "a tracer and its stopped tracee, both inside", ptrace_inside },
	{ "ptrace-outside", "PID", "(runs outside) traces PID and holds it in its exit stop until TERM", ptrace_outside },
	{ 0 },
};
