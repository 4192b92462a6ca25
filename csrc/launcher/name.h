/* name.h - what slotbus-launcher does for a name: see name.c. */
#ifndef SLOTBUS_LAUNCHER_NAME_H
#define SLOTBUS_LAUNCHER_NAME_H

/* Runs the command in argv[1], which begins with "--". Returns the exit code. */
int for_name(int argc, char **argv);

#endif
