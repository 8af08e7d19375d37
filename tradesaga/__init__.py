"""Event-driven sagas for trades over Kafka.

Everything that tradesaga installs is below this one name: `tradesaga.sagas` to define a saga, `tradesaga.consumers` to
implement its steps, `tradesaga.sagas.testing` to test it. In the repository each of the five subpackages is a folder of
its own at the top level; here they are links to those folders.
"""
