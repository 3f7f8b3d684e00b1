/* base/list.h: order, deletion during a walk, splicing. */
#include "test.h"

#include "base/list.h"

struct item {
	int value;
	struct list_head link;
};

static struct item items[4];

static int fill(void **state)
{
	static struct list_head head;

	list_init(&head);
	for (int i = 0; i < 4; i++) {
		items[i].value = i;
		list_add_tail(&items[i].link, &head);
	}
	*state = &head;
	return 0;
}

/* The values in order, as the digits of a number that begins with 1. */
static int digits(struct list_head *head)
{
	struct item *item;
	int n = 1;

	list_for_each(item, head, link)
		n = n * 10 + item->value;
	return n;
}

static void walk_keeps_the_order(void **state)
{
	assert_int_equal(digits(*state), 10123);
	assert_int_equal(list_first_entry((struct list_head *)*state, struct item, link)->value, 0);
	assert_int_equal(list_last_entry((struct list_head *)*state, struct item, link)->value, 3);
}

static void add_puts_first(void **state)
{
	struct item extra = { .value = 9 };

	list_add(&extra.link, *state);
	assert_int_equal(digits(*state), 190123);
}

static void delete_while_walking(void **state)
{
	struct item *item, *tmp;

	list_for_each_safe(item, tmp, (struct list_head *)*state, link)
		if (item->value % 2)
			list_del(&item->link);
	assert_int_equal(digits(*state), 102);
	assert_true(list_empty(&items[1].link));
}

static void delete_twice_is_harmless(void **state)
{
	list_del(&items[2].link);
	list_del(&items[2].link);
	assert_int_equal(digits(*state), 1013);
}

static void move_and_splice(void **state)
{
	struct list_head other = LIST_HEAD_INIT(other);

	list_move_tail(&items[0].link, *state);
	assert_int_equal(digits(*state), 11230);
	list_splice_tail(&other, *state);
	assert_int_equal(digits(*state), 11230);
	list_move_tail(&items[3].link, &other);
	list_splice_tail(*state, &other);
	assert_int_equal(digits(&other), 13120);
	assert_true(list_empty(*state));
	assert_null(list_first_entry_or_null((struct list_head *)*state, struct item, link));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(walk_keeps_the_order, fill),
		cmocka_unit_test_setup(add_puts_first, fill),
		cmocka_unit_test_setup(delete_while_walking, fill),
		cmocka_unit_test_setup(delete_twice_is_harmless, fill),
		cmocka_unit_test_setup(move_and_splice, fill),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
