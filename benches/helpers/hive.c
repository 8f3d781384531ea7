/* hive N [deaf]: N processes that only wait, for the cases that end or weigh them.
 *
 * Writes one byte to standard output when all of them exist, so that the clock can start by an
 * event. `deaf` ignores SIGTERM. Exit code 3: the host did not allow N processes. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	long count = argc > 1 ? atol(argv[1]) : 1;
	if (argc > 2 && strcmp(argv[2], "deaf") == 0)
		signal(SIGTERM, SIG_IGN);
	for (long made = 1; made < count; made++) {
		pid_t pid = fork();
		if (pid < 0) {
			fprintf(stderr, "hive: process %ld of %ld: %s\n", made + 1, count, strerror(errno));
			return 3;
		}
		if (pid == 0)
			for (;;)
				pause();
	}
	if (write(1, "r", 1) != 1)
		return 4;
	for (;;)
		pause();
}
