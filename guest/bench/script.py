# What Python programs are made of: objects, calls, dictionaries, strings and lists.
class Account:
    def __init__(self, owner):
        self.owner = owner
        self.balance = 0

    def deposit(self, amount):
        self.balance += amount
        return self.balance


accounts = {f"owner {i}": Account(f"owner {i}") for i in range(500)}
names = list(accounts)
for i in range(150000):
    accounts[names[i * 7 % 500]].deposit(i % 13)
words = " ".join(f"{account.owner}:{account.balance}" for account in accounts.values()).split()
count = {}
for _ in range(20):
    for word in words:
        for letter in word:
            count[letter] = count.get(letter, 0) + 1
print(sorted(count.items()), sum(sorted((i * 7919) % 10007 for i in range(100000))[::100]))
