"""A ValidatingAdmissionPolicy's answer to an update, as an API server comes to it: its expressions in CEL are evaluated."""

import celpy


def evaluated(expression, about):
    """The value of an expression over objects of JSON. Raises celpy.CELEvalError where it has none."""
    environment = celpy.Environment()
    program = environment.program(environment.compile(expression))
    return program.evaluate({name: celpy.json_to_cel(value) for name, value in about.items()})


def decides(policy, wanted, present, data, namespace="prod", name="flotilla-shard"):
    """Whether an update from `present` to `wanted` is allowed, with `data` in the parameters; and what is said."""
    about = {"object": wanted, "oldObject": present, "params": {"data": data} if data else {},
             "request": {"namespace": namespace, "name": name}}
    if not all(evaluated(one["expression"], about) for one in policy["matchConditions"]):
        return True, "not its business"
    def whole(expression):
        """With what the variables stand for: they are evaluated where they are needed, and not before."""
        for one in reversed(policy["variables"]):
            expression = expression.replace(f"variables.{one['name']}", f"({one['expression']})")
        return expression

    try:
        for one in policy["validations"]:
            if not evaluated(whole(one["expression"]), about):
                return False, str(evaluated(whole(one["messageExpression"]), about))
    except celpy.CELEvalError as error:
        assert policy["failurePolicy"] == "Fail"
        return False, str(error)
    return True, ""
