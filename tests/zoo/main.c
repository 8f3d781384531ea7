/* The gate of the zoo: `zoo ANIMAL [--exit CODE [--go FIFO]] [args]`; `zoo` alone lists the animals. */
#include "zoo.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static const struct animal *const rooms[] = {
	forks_room, states_room,  bombs_room,   cgroups_room,   traces_room,
	fuse_room,  persons_room, filters_room, terminals_room, machines_room, NULL,
};

struct board *board;

static void list(void)
{
	for (int r = 0; rooms[r]; r++)
		for (const struct animal *a = rooms[r]; a->name; a++)
			printf("%-22s %-26s %s\n", a->name, a->args, a->what);
}

static const struct animal *find(const char *name)
{
	for (int r = 0; rooms[r]; r++)
		for (const struct animal *a = rooms[r]; a->name; a++)
			if (strcmp(a->name, name) == 0)
				return a;
	return NULL;
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		list();
		return 0;
	}
	const struct animal *animal = find(argv[1]);
	if (!animal) {
		fprintf(stderr, "zoo: no animal is called %s; `zoo` lists them\n", argv[1]);
		return 98;
	}
	argc -= 2;
	argv += 2;
	if (argc >= 2 && strcmp(argv[0], "--exit") == 0) {
		exit_code = (int)number(argv[1], 0, 255);
		argc -= 2;
		argv += 2;
	}
	if (argc >= 2 && strcmp(argv[0], "--go") == 0) {
		go_file = argv[1];
		argc -= 2;
		argv += 2;
	}
	board = mmap(NULL, sizeof *board, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		die("mmap of the shared page");
	bounded_life(LIFE);
	animal->run(argc, argv);
	die("%s came back", animal->name);
}
