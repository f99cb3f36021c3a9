"""Running a program on images: threads, arenas, and a look inside."""
