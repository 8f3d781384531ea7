/* bomb tree|hop|bare LIMIT UID: a fork bomb with a fuse. RLIMIT_NPROC bounds it to LIMIT processes.
 *
 *   tree  every process forks for ever
 *   hop   eight lineages; each forks and its parent exits at once, so no PID lives long
 *   bare  as hop, with a session of its own and an empty environment at every hop
 *
 * All ignore SIGTERM. One byte goes to standard output when the bomb is at full strength: the tree at
 * its limit, the others after some hops. UID 0 keeps the present user: the limit then holds only where
 * that user is not root. */
#include <errno.h>
#include <grp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>
#include <sched.h>

enum { LINEAGES = 8, HOPS = 25 };

static void fail(const char *what)
{
	fprintf(stderr, "bomb: %s: %s\n", what, strerror(errno));
	exit(3);
}

static void tree(void)
{
	int *told = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (told == MAP_FAILED)
		fail("mmap");
	for (;;) {
		if (fork() >= 0)
			continue;
		if (!__sync_lock_test_and_set(told, 1) && write(1, "r", 1) != 1)
			_exit(4);
		sched_yield();
	}
}

static void hop(const char *self, int bare, int hops)
{
	for (;; hops++) {
		if (hops == HOPS && write(1, "r", 1) != 1)
			_exit(4);
		pid_t pid = fork();
		if (pid > 0)
			_exit(0);
		if (pid < 0 || !bare)
			continue;
		setsid();
		char count[16];
		snprintf(count, sizeof count, "%d", hops + 1);
		char *args[] = { (char *)self, "on", count, NULL };
		char *none[] = { NULL };
		execve(self, args, none);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "on") == 0)
		hop(argv[0], 1, atoi(argv[2]));
	if (argc != 4)
		return 2;
	long limit = atol(argv[2]);
	uid_t uid = (uid_t)atol(argv[3]);
	struct rlimit bound = { limit, limit };
	if (setrlimit(RLIMIT_NPROC, &bound) != 0)
		fail("setrlimit");
	if (uid != 0 && (setgroups(0, NULL) != 0 || setgid(uid) != 0 || setuid(uid) != 0))
		fail("setuid");
	signal(SIGTERM, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	if (strcmp(argv[1], "tree") == 0)
		tree();
	/* The first process stays, or the job would end by itself. */
	for (int made = 0; made < LINEAGES; made++)
		if (fork() == 0)
			hop(argv[0], strcmp(argv[1], "bare") == 0, 0);
	for (;;)
		pause();
}
