/* See map.h. */
#include "map.h"

void map_draw(const struct map *map, const struct chain *chain, FILE *to)
{
	(void)map;
	(void)chain;
	fputs("<svg/>\n", to);
}
