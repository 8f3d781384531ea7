/* Those that run a virtual machine. */
#include "zoo.h"
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static void make_machine(void *arg)
{
	(void)arg;
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm < 0)
		die("open of /dev/kvm");
	int machine = ioctl(kvm, KVM_CREATE_VM, 0);
	if (machine < 0)
		die("KVM_CREATE_VM");
	char link[64] = "";
	if (readlink(text("/proc/self/fd/%d", machine), link, sizeof link - 1) < 0 || !strstr(link, "kvm-vm"))
		die("the machine's descriptor is %s", link);
	arrived();
}

/* What stands behind its name is for the census to read, such as `-name web`. */
static void kvm_vm(int argc, char **argv)
{
	(void)argc, (void)argv;
	pid_t child = spawn(make_machine, NULL);
	ready(&child, 1, NULL);
}

const struct animal machines_room[] = {
	{ "kvm-vm", "[-name NAME]", "a child that has an empty machine of KVM", kvm_vm },
	{ 0 },
};
