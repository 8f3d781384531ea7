/* Those that are somebody else. */
#include "zoo.h"
#include <errno.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void become(void *arg)
{
	uid_t uid = (uid_t)number(arg, 0, 4294967294L);
	if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid))
		die("change to uid %u", (unsigned)uid);
	arrived();
}

static void become_by_exec(void *arg)
{
	execl(arg, "zoo", "linger", text("%d", arrival_fd()), (char *)NULL);
	die("exec of %s", (char *)arg);
}

/* As root with a uid; as a user with the path of a setuid copy of zoo, which root put there. */
static void set_uid(int argc, char **argv)
{
	char *who = argc > 0 ? argv[0] : "65534";
	pid_t child = spawn(who[0] == '/' ? become_by_exec : become, who);
	ready(&child, 1, NULL);
}

const struct animal persons_room[] = {
	{ "setuid", "[UID|PROGRAM]", "a child of another uid, or a setuid PROGRAM (a copy of zoo)", set_uid },
	{ 0 },
};
