/* Those that fork faster than one can look. All are bounded by count and by time. */
#include "zoo.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Nobody hops for longer than this, whatever the count says. */
enum { HOP_SECONDS = 30 };

struct hopper {
	long forks;
	double end;
	bool sessions;
};

/* Forks and exits, over and over: the pid is another one each time somebody looks. */
static void hop(void *arg)
{
	const struct hopper *h = arg;
	arrived();
	while (now() < h->end) {
		pid_t child = fork();
		if (child > 0)
			_exit(0);
		if (child < 0) {
			nap();
			continue;
		}
		if (h->sessions)
			setsid();
		if (atomic_fetch_add(&board->count, 1) >= h->forks)
			break;
	}
	_exit(0);
}

static void start_hopping(int lanes, long before_ready, bool sessions)
{
	/* The first of each lane is our child; the kernel reaps it. */
	signal(SIGCHLD, SIG_IGN);
	struct hopper h = { .forks = 4000000, .end = now() + HOP_SECONDS, .sessions = sessions };
	for (int i = 0; i < lanes; i++)
		spawn(hop, &h);
	while (atomic_load(&board->count) < before_ready)
		nap();
	ready(NULL, 0, text("lanes=%d", lanes));
}

static void rabbits(int argc, char **argv)
{
	(void)argc, (void)argv;
	start_hopping(4, 200, false);
}

/* What a tree counts in the slots of the board. */
enum { REFUSED, BORN };

/* Everyone forks and stays until there are `limit` of them. */
static void tree(void *arg)
{
	long limit = *(long *)arg;
	double end = now() + HOP_SECONDS;
	arrived();
	while (atomic_fetch_add(&board->count, 1) < limit) {
		pid_t child = fork();
		if (child == 0) {
			bounded_life(LIFE);
			atomic_fetch_add(&board->pid[BORN], 1);
		}
		if (child < 0) {
			/* Refused (pids.max): try on for a while, as real bombs do. */
			atomic_fetch_sub(&board->count, 1);
			atomic_fetch_add(&board->pid[REFUSED], 1);
			if (now() > end)
				break;
			nap();
		}
	}
	stay();
}

/* Makes /proc/PID/environ of this process and of its forks read as nothing but zeros. */
static void wipe_environment(void)
{
	extern char **environ;
	for (char **e = environ; *e; e++)
		memset(*e, 0, strlen(*e));
}

static void bomb(int argc, char **argv)
{
	const char *kind = argc > 0 ? argv[0] : "tree";
	long count = argc > 1 ? number(argv[1], 1, 20000) : 500;
	if (strcmp(kind, "tree") == 0) {
		spawn(tree, &count);
		/* Where forks are refused, hundreds of refusals are the state that was wanted. */
		while (atomic_load(&board->pid[BORN]) < count && atomic_load(&board->pid[REFUSED]) < 300)
			nap();
		ready(NULL, 0, text("refused=%d", atomic_load(&board->pid[REFUSED])));
	}
	int lanes = count < 400 ? 4 : (int)(count / 100);
	if (strcmp(kind, "hop") == 0)
		start_hopping(lanes, count, false);
	if (strcmp(kind, "hop-setsid") == 0) {
		wipe_environment();
		start_hopping(lanes, count, true);
	}
	errno = EINVAL;
	die("a bomb is tree, hop or hop-setsid, not %s", kind);
}

const struct animal bombs_room[] = {
	{ "rabbits", "", "four lines of processes that fork and exit, for at most 30 s", rabbits },
	{ "bomb", "[tree|hop|hop-setsid] [N]", "a fork bomb of N processes (500), or N hops before ready", bomb },
	{ 0 },
};
